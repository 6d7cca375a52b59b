"""Weights & Biases. Training never waits for it: a thread of its own talks to it, online or to the run folder.

Never asks for a login; without a key, or without an answer, it logs to the run folder, from where `wandb sync` uploads later.
"""

import contextlib
import json
import netrc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import psutil

from llmrl.config import KeepModel, TrackerConfig, WandbMode
from llmrl.errors import one_line
from llmrl.tracking.artifacts import log_artifacts
from llmrl.tracking.run_folder import RunFolder
from llmrl.tracking.trackers import Histogram, Tracker

TABLE_ROWS = 8  # of each step
MOST_ROWS = 2000  # of the whole table
LAST_STEP = 2**62
UPLOAD_BYTES_PER_SECOND = 500_000  # of a slow line
UPLOAD_SECONDS = 86_400.0  # W&B's own limit where a model is uploaded; ours depends on its size
AWAY_SECONDS = 300.0  # before a server that did not answer is tried again by a later run of this process
Order = Callable[[Any], None]


class WandbTracker(Tracker):
    """One W&B run, its id kept in run.json so that a run that is gone on with goes on there."""

    _away_until: ClassVar[float] = 0.0

    def __init__(self, config: TrackerConfig, run: RunFolder, settings: dict[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its own telemetry holds up the end where nobody answers
        import wandb
        from wandb.sdk.lib.runid import generate_id

        self._wandb, self._config, self._folder, self._settings = wandb, config, run, settings
        self._resumes = "wandb_id" in run.record
        given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None  # by an agent of W&B's sweeps
        self._id = run.record.get("wandb_id") or given or generate_id()
        self._table: list[list[Any]] = []
        self._tables = 0  # samples logged so far; a table at the 1st, 2nd, 4th, 8th, ... time and at the end
        self._logged: set[tuple[str, int]] = set()  # (metrics, samples or histograms, step) logged before
        self._summary: dict[str, float | str] = {}
        self._complained = self._given_up = False
        self._begun = threading.Event()
        self._exit_code = 0
        self._where, reason = self._mode()
        run.mark("running", wandb_id=self._id, wandb_mode=self._where)
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(self._where, reason), name="wandb", daemon=True)
        self._thread.start()

    def _mode(self) -> tuple[str, str]:
        mode, reason = wandb_mode(self._config)
        if mode == "online" and time.monotonic() < WandbTracker._away_until:
            return "offline", "the server did not answer an earlier run"
        return mode, reason

    def _work(self, mode: str, reason: str) -> None:
        """The thread: begin, carry out what is ordered, finish."""
        run = self._begin(mode, reason)
        if run is None:
            return
        self._begun.set()
        while (order := self._orders.get()) is not None:
            try:
                order(run)
            except Exception as error:  # the numbers are in the run folder
                self._complain(error)
        try:
            run.finish(exit_code=self._exit_code)
        except Exception as error:
            self._complain(error)

    def _begin(self, mode: str, reason: str) -> Any:
        arguments = self._arguments()
        try:
            run = self._wandb.init(mode=mode, settings=self._wandb_settings(), **arguments)
        except Exception as error:  # a tracker is never a reason not to train
            if self._given_up:
                return None
            WandbTracker._away_until = time.monotonic() + AWAY_SECONDS
            mode, reason = "offline", f"the server could not be used ({one_line(error)[:120]})"
            self._where = mode
            drop_service(self._wandb)  # it holds the run's id, and would go on waiting
            try:
                run = self._wandb.init(mode=mode, settings=self._wandb_settings(), **arguments)
            except Exception as second:
                self._complain(second)
                return None
        _define(run)
        if mode == "offline":
            print(f"wandb: offline, {reason}; to upload later: wandb sync {self._synced_folder()}", file=sys.stderr)
        elif run.url:
            print(f"wandb: {run.url}", file=sys.stderr)
        return run

    def _arguments(self) -> dict[str, Any]:
        config, run, settings = self._config, self._folder, self._settings
        sweep = run.record.get("sweep")
        tags = [settings["trainer"]["name"], *settings["reward"], *config.tags]
        return {
            "project": config.project, "entity": config.entity, "name": config.name or run.path.name,
            "group": config.group or sweep, "job_type": "sweep" if sweep else "train", "tags": tags, "dir": str(run.path),
            "config": settings, "reinit": "create_new", "id": self._id, "resume": "allow" if self._resumes else None,
        }  # fmt: skip

    def _wandb_settings(self) -> Any:
        return self._wandb.Settings(
            silent=True, console="off", init_timeout=self._config.init_timeout, disable_git=True, login_timeout=1,
            finish_timeout=UPLOAD_SECONDS if self._uploads else self._config.finish_timeout, finish_timeout_raises=False,
        )  # fmt: skip

    @property
    def _uploads(self) -> bool:
        return self._config.model is KeepModel.upload

    def _patience(self) -> float:
        """Seconds that the server has at the end: more where the final model is uploaded, as large as it is."""
        files = self._folder.final.rglob("*") if self._uploads else ()
        size = sum(file.stat().st_size for file in files if file.is_file())
        return self._config.finish_timeout + size / UPLOAD_BYTES_PER_SECOND

    def _complain(self, error: BaseException) -> None:
        if not self._complained:
            self._complained = True
            print(f"wandb: {type(error).__name__}: {one_line(error)[:200]}; the run goes on", file=sys.stderr)

    def _synced_folder(self) -> str:
        """What `wandb sync` is to be given: a run that was gone on with has a part from each process."""
        parts = sorted(self._folder.path.glob(f"wandb/offline-run-*-{self._id}"))
        return " ".join(map(os.path.relpath, parts)) if parts else str(self._folder.path / "wandb")

    def go_on_after(self, step: int) -> None:
        """What an earlier process logged after `step` comes again with the same figures and is left out. What W&B had not yet
        written when that process was killed is logged now, from the run folder's own lines."""
        self._orders.put(lambda run: self._catch_up(run, step))

    def _catch_up(self, run: Any, step: int) -> None:
        last = run.summary.get("train/global_step")  # what the server has, if there is one
        if isinstance(last, int | float):
            self._logged = {(kind, each) for kind in ("metrics", "samples", "histograms") for each in range(int(last) + 1)}
        for path in sorted(self._folder.path.glob(f"wandb/offline-run-*-{self._id}/run-{self._id}.wandb")):
            self._logged |= set(logged_offline(path))
        self._log_again(run, step)

    def _log_again(self, run: Any, step: int) -> None:
        """The lines of the run folder up to `step`, without those that are known to be logged."""
        samples: dict[int, list[dict[str, Any]]] = {}
        for row in self._folder.rows(self._folder.samples_file, step):
            samples.setdefault(row["step"], []).append(row)
        histograms = {row.pop("step"): row for row in self._folder.rows(self._folder.histograms_file, step)}
        for row in self._folder.rows(self._folder.metrics_file, step):
            at = row.pop("step")
            if at in histograms:
                self._log_histograms(run, histograms[at], at)
            self._log(run, row, at)
            every = self._settings["trainer"]["samples_every"]
            if every and at % every == 0 and at in samples:
                self._log_samples(run, samples[at], at)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._orders.put(lambda run: self._log(run, metrics, step))

    def log_histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        self._orders.put(lambda run: self._log_histograms(run, histograms, step))

    def _log_histograms(self, run: Any, histograms: Mapping[str, Histogram], step: int) -> None:
        if ("histograms", step) not in self._logged:
            run.log({**_as_wandb(self._wandb, histograms), "train/global_step": step})

    def _log(self, run: Any, values: Mapping[str, Any], step: int) -> None:
        if ("metrics", step) not in self._logged:
            run.log({**values, "train/global_step": step})

    def log_samples(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        chosen = [dict(row) for row in rows[:TABLE_ROWS]]
        self._orders.put(lambda run: self._log_samples(run, chosen, step))

    def _log_samples(self, run: Any, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """The table holds the samples of all steps so far: one that is only replaced loses the earlier ones. Every table is an
        artifact: they come at doubling distances, so that a thousand steps leave ten."""
        self._table += [[step, row["prompt"], row["response"], row["reward"]] for row in rows[:TABLE_ROWS]]
        self._tables += 1
        if ("samples", step) not in self._logged and self._tables & (self._tables - 1) == 0:
            self._log_table(run, step)

    def _log_table(self, run: Any, step: int) -> None:
        columns = ["step", "prompt", "response", "reward"]
        run.log(
            {"samples": self._wandb.Table(columns=columns, data=thinned(self._table, MOST_ROWS)), "train/global_step": step}
        )

    def summarise(self, figures: Mapping[str, float | str]) -> None:
        self._summary |= figures
        self._orders.put(lambda run: run.summary.update(dict(figures)))

    def alert(self, title: str, text: str) -> None:
        self._orders.put(lambda run: run.alert(title=title, text=text, level=self._wandb.AlertLevel.WARN))

    def finish(self, exit_code: int) -> None:
        """Wait for what is left to be sent, no longer than the server may take; what is not is said, and stays on the disk."""
        self._exit_code = exit_code
        self._orders.put(self._last)
        self._orders.put(None)
        if not self._begun.is_set():
            self._thread.join(self._config.init_timeout)
        patience = self._patience()
        self._thread.join(patience)
        if self._thread.is_alive():
            self._rescue(patience)
        if self._where != self._folder.record.get("wandb_mode"):
            self._folder.add(wandb_mode=self._where)

    def _rescue(self, patience: float) -> None:
        """The server does not take the run: log all of it offline, from the run folder, as nobody knows what it has taken."""
        self._given_up = self._complained = True  # what the thread has yet to say is no news
        WandbTracker._away_until = time.monotonic() + AWAY_SECONDS
        drop_service(self._wandb)
        self._where, self._logged, self._table, self._tables = "offline", set(), [], 0
        try:
            run = self._wandb.init(mode="offline", settings=self._wandb_settings(), **self._arguments())
            _define(run)
            self._log_again(run, LAST_STEP)
            run.summary.update(dict(self._summary))
            self._last(run)
            run.finish(exit_code=self._exit_code)
            where = f"it is kept offline; to upload it later: wandb sync {self._synced_folder()}"
        except Exception as error:
            where = f"nor could it be kept offline ({one_line(error)[:120]}): its numbers are in {self._folder.metrics_file}"
        print(f"wandb: the server did not take the run in {patience:.0f} s; {where}", file=sys.stderr)

    def _last(self, run: Any) -> None:
        if self._table and self._tables & (self._tables - 1):
            self._log_table(run, int(self._table[-1][0]))
        log_artifacts(self._wandb, run, self._folder, self._settings, self._config)


def thinned(table: Sequence[list[Any]], most: int) -> list[list[Any]]:
    """At most `most` rows, or two steps, of a table whose first column is the step: whole steps, evenly, the first and last."""
    steps = list(dict.fromkeys(row[0] for row in table))
    wanted = max(2, len(steps) * most // max(len(table), 1))
    if wanted >= len(steps):
        return list(table)
    kept = {steps[place * (len(steps) - 1) // (wanted - 1)] for place in range(wanted)}
    return [row for row in table if row[0] in kept]


def _define(run: Any) -> None:
    run.define_metric("train/global_step")
    run.define_metric("*", step_metric="train/global_step")


def drop_service(wandb: Any) -> None:
    """End W&B's helper process at once: it would hold up the end of this one for as long as the server does not answer. What it
    had not yet written is lost, and has to be logged again."""
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = silent_about_wandb
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.name().startswith("wandb-core"):
                child.kill()
    with contextlib.suppress(Exception, SystemExit):  # it leaves with the helper's status
        wandb.teardown()


def silent_about_wandb(args: threading.ExceptHookArgs) -> None:
    """For `threading.excepthook`: the status threads of a run that was given up find their helper gone, which is no news."""
    if not args.exc_type.__module__.startswith("wandb."):
        threading.__excepthook__(args)


def _as_wandb(wandb: Any, histograms: Mapping[str, Histogram]) -> dict[str, Any]:
    return {
        f"histograms/{name}": wandb.Histogram(np_histogram=(each["counts"], each["edges"])) for name, each in histograms.items()
    }


def logged_offline(path: Path) -> Iterator[tuple[str, int]]:
    """(metrics, samples or histograms; step) of every row in a log that W&B wrote offline; what can't be read is not there."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    for line in done.stdout.splitlines():
        row = json.loads(line).get("history", {}).get("item", {}) if line.startswith("{") else {}
        if "train/global_step" in row:
            kinds = {"samples.": "samples", "histograms/": "histograms"}
            found = [kind for start, kind in kinds.items() if any(key.startswith(start) for key in row)]
            yield (found or ["metrics"])[0], int(row["train/global_step"])


def wandb_mode(config: TrackerConfig) -> tuple[str, str]:
    """(mode, why): what `tracker.mode` says, then $WANDB_MODE, then online where a key is at hand. Without one never online."""
    wanted = config.mode.value if config.mode is not WandbMode.auto else os.environ.get("WANDB_MODE") or "online"
    if wanted != "online":
        return wanted, "as asked"
    return ("online", "") if key_is_configured() else ("offline", "no key configured")


def key_is_configured() -> bool:
    """Whether a Weights & Biases key is at hand, in the environment or the netrc file, without asking anybody for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if path and Path(path).expanduser().is_file():
            try:
                hosts = netrc.netrc(str(Path(path).expanduser())).hosts
            except (netrc.NetrcParseError, OSError):
                continue
            if any("wandb" in host for host in hosts):
                return True
    return False

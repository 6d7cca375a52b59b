"""Trackers: Weights & Biases, TensorBoard, or none beside the JSON lines of the run folder."""

import importlib.util
import json
import netrc
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmrl.config import TrackerConfig, TrackerKind, WandbMode
from llmrl.errors import UserError, one_line
from llmrl.tracking.run_folder import RunFolder

TABLE_ROWS = 8  # of each step


class Tracker(Protocol):
    """Takes one flat dict of floats a step and now and then a table of samples. Never raises for want of a network."""

    def go_on_after(self, step: int) -> None:
        """The run goes on after `step`: what comes now may have been logged before, and must not be there twice."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_samples(self, rows: Sequence[Mapping[str, Any]], step: int) -> None: ...

    def summarise(self, figures: Mapping[str, float | str]) -> None: ...

    def finish(self, exit_code: int) -> None: ...


def check_tracker(config: TrackerConfig) -> None:
    """Raises UserError, before a model loads, if the package of the tracker is missing."""
    if config.kind is TrackerKind.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("tracker=tensorboard needs the package: pip install tensorboard")


def make_tracker(config: TrackerConfig, run: RunFolder, settings: dict[str, Any]) -> Tracker:
    """The tracker of `config`, started. `settings` is the run's whole config as plain nested containers."""
    if config.kind is TrackerKind.wandb:
        return WandbTracker(config, run, settings)
    if config.kind is TrackerKind.tensorboard:
        return TensorBoardTracker(run)
    return NoTracker()


class NoTracker:
    """The JSON lines are enough."""

    def go_on_after(self, step: int) -> None:
        """Nothing was logged."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing beside the run folder."""

    def log_samples(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Nothing beside the run folder."""

    def summarise(self, figures: Mapping[str, float | str]) -> None:
        """Nothing beside the run folder."""

    def finish(self, exit_code: int) -> None:
        """Nothing to close."""


class TensorBoardTracker:
    """Event files in the run folder's tensorboard/."""

    def __init__(self, run: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._make = str(run.path / "tensorboard"), SummaryWriter
        self._writer = SummaryWriter(self._folder)

    def go_on_after(self, step: int) -> None:
        self._writer.close()
        self._writer = self._make(self._folder, purge_step=step + 1)  # TensorBoard then hides what was logged after it

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def log_samples(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        text = "\n\n".join(f"**{row['prompt']}** {row['response']}  \nreward {row['reward']:.3f}" for row in rows)
        self._writer.add_text("samples", text, step)

    def summarise(self, figures: Mapping[str, float | str]) -> None:
        self._writer.add_text("summary", "  \n".join(f"{name}: {value}" for name, value in figures.items()))

    def finish(self, exit_code: int) -> None:
        self._writer.close()


class WandbTracker:
    """Weights & Biases. Never asks for a login; without a key, or without an answer, it logs to the run folder."""

    def __init__(self, config: TrackerConfig, run: RunFolder, settings: dict[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._wandb = wandb
        mode, reason = wandb_mode(config)
        arguments: dict[str, Any] = {
            "project": config.project, "entity": config.entity, "name": config.name or run.path.name, "group": config.group,
            "tags": config.tags or None, "dir": str(run.path), "config": settings, "reinit": "finish_previous",
            "id": run.record.get("wandb_id"), "resume": "allow" if run.record.get("wandb_id") else None,
        }  # fmt: skip
        try:
            self._run = wandb.init(mode=mode, settings=self._settings(config), **arguments)  # type: ignore[arg-type]
        except Exception as error:  # a tracker is never a reason not to train
            mode, reason = "offline", f"the server could not be used ({one_line(error)[:120]})"
            self._run = wandb.init(mode="offline", settings=self._settings(config), **arguments)
        self._run.define_metric("train/global_step")
        self._run.define_metric("*", step_metric="train/global_step")
        self._run_folder, self._samples_every = run, settings["trainer"]["samples_every"]
        self._table: list[Any] = []
        self._logged: set[tuple[str, int]] = set()  # (metrics or samples, step) that an earlier process logged
        run.mark("running", wandb_id=self._run.id, wandb_mode=mode)
        if mode == "offline":
            print(f"wandb: offline, {reason}; to upload later: wandb sync {self._folder(run)}", file=sys.stderr)
        elif self._run.url:
            print(f"wandb: {self._run.url}", file=sys.stderr)

    def _settings(self, config: TrackerConfig) -> Any:
        return self._wandb.Settings(
            silent=True, console="off", init_timeout=config.init_timeout, disable_git=True, login_timeout=1,
            finish_timeout=60.0, finish_timeout_raises=False,
        )  # fmt: skip

    def _folder(self, run: RunFolder) -> str:
        """What `wandb sync` is to be given: a run that was gone on with has a part from each process."""
        parts = sorted(run.path.glob(f"wandb/offline-run-*-{self._run.id}"))
        return " ".join(map(os.path.relpath, parts)) if parts else str(run.path / "wandb")

    def go_on_after(self, step: int) -> None:
        """What an earlier process logged after `step` comes again with the same figures and is left out. What W&B had not yet
        written when that process was killed is logged now, from the run folder's own lines."""
        last = self._run.summary.get("train/global_step")  # what the server has, if there is one
        if isinstance(last, int | float):
            self._logged = {(kind, each) for kind in ("metrics", "samples") for each in range(int(last) + 1)}
        for path in sorted(self._run_folder.path.glob(f"wandb/offline-run-*-{self._run.id}/run-{self._run.id}.wandb")):
            self._logged |= set(logged_offline(path))
        samples: dict[int, list[dict[str, Any]]] = {}
        for row in self._run_folder.rows(self._run_folder.samples_file, step):
            samples.setdefault(row["step"], []).append(row)
        for row in self._run_folder.rows(self._run_folder.metrics_file, step):
            at = row.pop("step")
            self.log(row, at)
            if self._samples_every and at % self._samples_every == 0 and at in samples:
                self.log_samples(samples[at], at)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if ("metrics", step) not in self._logged:
            self._run.log({**metrics, "train/global_step": step})

    def log_samples(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """The table holds the samples of all steps so far: one that is only replaced loses the earlier ones."""
        self._table += [_table_row(step, row) for row in rows[:TABLE_ROWS]]
        if ("samples", step) in self._logged:
            return
        table = self._wandb.Table(columns=["step", "prompt", "response", "reward"], data=self._table[-500:])
        self._run.log({"samples": table, "train/global_step": step})

    def summarise(self, figures: Mapping[str, float | str]) -> None:
        self._run.summary.update(dict(figures))

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)


def _table_row(step: int, row: Mapping[str, Any]) -> list[Any]:
    return [step, row["prompt"], row["response"], row["reward"]]


def logged_offline(path: Path) -> Iterator[tuple[str, int]]:
    """(metrics or samples, step) of every row in a log that W&B wrote offline; whatever can't be read counts as not there."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    for line in done.stdout.splitlines():
        row = json.loads(line).get("history", {}).get("item", {}) if line.startswith("{") else {}
        if "train/global_step" in row:
            kind = "samples" if any(key.startswith("samples.") for key in row) else "metrics"
            yield kind, int(row["train/global_step"])


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

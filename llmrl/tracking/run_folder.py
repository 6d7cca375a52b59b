"""The run folder: a contract that everything downstream relies on. See docs/architecture.md."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from llmrl.config import packaged
from llmrl.errors import RunError, UserError
from llmrl.files import replace_text

PACKAGES = ("llmrl", "torch", "transformers", "hydra-core", "omegaconf", "wandb")
OUTPUTS = Path("outputs")


class RunFolder:
    """A run's folder: config.yaml, run.json, metrics.jsonl, samples.jsonl, checkpoints/, final/, evaluation.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._record: dict[str, Any] = {}
        self._lock: FileLock | None = None
        self._started = time.perf_counter()

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def histograms_file(self) -> Path:
        return self.path / "histograms.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        return self.path / "final"

    @property
    def evaluation_file(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def record(self) -> dict[str, Any]:
        """What run.json says."""
        if not self._record and (self.path / "run.json").is_file():
            try:
                self._record = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UserError(f"{self.path / 'run.json'} can't be read: {error}") from None
        return self._record

    def begin(self, config: Any, **facts: Any) -> None:
        """Make the folder and write config.yaml and run.json, status `running`. Raises UserError if it can't be written to."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.refuse_if_taken()
            self.lock()
            write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
            self.mark("running", started=_now(), **facts, versions=_versions(), commit=_commit(), machine=machine())
        except OSError as error:
            raise UserError(f"the run folder {self.path} can't be written to: {error.strerror or error}") from error

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "run.json").is_file()

    def lock(self) -> None:
        """Make this process the only one that writes here until it ends, however it ends. Raises UserError if one does."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            where = f"process {self.record.get('process', '?')} on {self.record.get('host', '?')}"
            raise UserError(f"{self.path} is still running: {where}") from None
        except OSError as error:
            raise UserError(f"the run folder {self.path} can't be written to: {error.strerror or error}") from error
        self._lock = lock  # held as long as the run is
        self.record.update(process=os.getpid(), host=platform.node())

    def unlock(self) -> None:
        """Let others go on with the run."""
        if self._lock is not None:
            self._lock.release()

    def refuse_if_taken(self) -> None:
        """Raises UserError if the folder holds a run already."""
        if self.exists:
            raise UserError(f"{self.path} holds a run already; choose another hydra.run.dir, or resume={self.path}")

    def set_aside(self) -> None:
        """Move what an earlier try left into unfinished-<n>/, so that the run can begin again in the same folder."""
        number = len(list(self.path.glob("unfinished-*")))
        aside = self.path / f"unfinished-{number}"
        aside.mkdir()
        for path in list(self.path.iterdir()):
            if path.name != ".lock" and not path.name.startswith("unfinished-"):
                path.rename(aside / path.name)
        self._record = {}

    def mark(self, status: str, **facts: Any) -> None:
        """Write run.json anew, atomically. Status: running, finished, interrupted or failed."""
        self._record = {**self.record, "status": status, **facts, "updated": _now()}
        now = time.perf_counter()
        self._record["seconds"] = round(self._record.get("seconds", 0.0) + now - self._started, 1)  # those before a resume, too
        self._started = now
        if "error" not in facts:
            self._record.pop("error", None)
        write_text(self.path / "run.json", json.dumps(self._record, indent=2) + "\n")

    def add(self, **facts: Any) -> None:
        """Facts for run.json that change nothing of how the run stands."""
        self._record = {**self.record, **facts}
        write_text(self.path / "run.json", json.dumps(self._record, indent=2) + "\n")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append one line to metrics.jsonl."""
        append_json(self.metrics_file, {"step": step, **metrics})

    def log_samples(self, rows: Iterable[Mapping[str, Any]], step: int) -> None:
        """Append one line a sample to samples.jsonl."""
        for row in rows:
            append_json(self.samples_file, {"step": step, **row})

    def log_histograms(self, histograms: Mapping[str, Any], step: int) -> None:
        """Append one line to histograms.jsonl: edges and counts by name."""
        append_json(self.histograms_file, {"step": step, **histograms})

    def flush(self) -> None:
        """Bring what was logged to the disk. Raises RunError if it does not take it."""
        for path in (self.metrics_file, self.samples_file, self.histograms_file):
            if path.is_file():
                try:
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
                except OSError as error:
                    raise RunError(f"{path} can't be written: {error.strerror or error}") from error

    def rows(self, path: Path, last: int) -> list[dict[str, Any]]:
        """The rows of metrics_file, samples_file or histograms_file up to step `last`."""
        return [row for row in read_json_lines(path) if row["step"] <= last] if path.is_file() else []

    def cut_after(self, step: int) -> None:
        """Drop the lines of steps after `step`, so that going on from a checkpoint writes none twice."""
        for path in (self.metrics_file, self.samples_file, self.histograms_file):
            if path.is_file():
                write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows(path, step)))


def find_run(name: str, with_model: bool = False) -> RunFolder:
    """The run folder of that path; `latest` is the newest under outputs/, the newest that has its final model if asked for.

    Raises UserError if there is none.
    """
    if name == "latest":
        found = sorted(OUTPUTS.glob("**/run.json"), key=lambda path: path.stat().st_mtime)
        found = [path for path in found if not with_model or (path.parent / "final").is_dir()]
        if not found:
            raise UserError(f"run=latest: there is no run under {OUTPUTS}/ yet; train one first")
        return RunFolder(found[-1].parent)
    path = packaged(name)
    if not (path / "run.json").is_file():
        raise UserError(f"{name} is no run folder: it has no run.json")
    return RunFolder(path)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old or the new, never half. Raises RunError if the disk does not take it."""
    try:
        replace_text(path, text)
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror or error}") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; a last line that a kill cut short is left out. Only a newline ends a line."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    whole = lines[:-1]  # what follows the last newline was not finished
    return [json.loads(line) for line in whole if line]


def append_json(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line of JSON to a file. Raises RunError if the disk does not take it."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror or error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the working directory, if it is a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> dict[str, Any]:
    """The system and how many processors it has."""
    return {"system": platform.platform(), "processors": os.cpu_count()}

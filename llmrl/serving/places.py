"""What there is to show: runs, sweeps and indexes under one folder, the example that ships with llmrl, nothing else."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrl.config import PACKAGED, packaged
from llmrl.errors import UserError
from llmrl.files import is_locked
from llmrl.models.places import cached_folder
from llmrl.retrieval.manifest import CURRENT
from llmrl.tracking.run_folder import RunFolder, read_json_lines

EXAMPLE = "packaged:example_run"
EXAMPLE_NAME = "the example that comes with llmrl"
TINY, SMOLLM2 = "packaged:tiny", "HuggingFaceTB/SmolLM2-135M-Instruct"
DEEPEST = 4  # folders below the one that is served


@dataclass(frozen=True)
class Run:
    """A run folder, as a list shows it. What could not be read is None."""

    name: str  # path below the folder that is served
    folder: RunFolder
    status: str
    model: str  # as the run was told, so that its base can be loaded
    base_weights: str  # hash of what it started from
    rewards: tuple[str, ...]
    started: str
    steps: int | None = None
    seconds: float | None = None
    seed: int | None = None
    verdict: str | None = None
    base_reward: float | None = None
    reward: float | None = None
    difference: dict[str, Any] | None = None
    kl: float | None = None

    @property
    def has_model(self) -> bool:
        return (self.folder.path / "final" / "config.json").is_file()


class Places:
    """Everything below one folder that pages may show."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs.expanduser().absolute()
        self._read: dict[Path, tuple[tuple[float, ...], Run]] = {}  # runs that have ended, while their files stay as they are

    def inside(self, name: str) -> Path:
        """A path below the folder that is served. Raises UserError for one that leaves it, by dots or by a link."""
        path = (self.outputs / name).resolve()
        if not path.is_relative_to(self.outputs.resolve()):
            raise UserError(f"{name!r} is not below {self.outputs}")
        return path

    def runs(self) -> list[Run]:
        """Newest first, the example last. A folder that can't be read is left out."""
        found = [(str(path.parent.relative_to(self.outputs)), path.parent) for path in self._files("run.json")]
        read = [run for name, path in found if (run := self._run(name, path)) is not None]
        example = self._run(EXAMPLE_NAME, packaged(EXAMPLE))
        return sorted(read, key=lambda run: run.started, reverse=True) + ([example] if example else [])

    def run(self, name: str) -> Run | None:
        """The one of that name, read anew; None where it has gone. Raises UserError for a name that leaves the folder."""
        return self._run(name, packaged(EXAMPLE) if name == EXAMPLE_NAME else self.inside(name))

    def _run(self, name: str, path: Path) -> Run | None:
        state = tuple(_modified(path / file) for file in ("run.json", "evaluation.json", "final"))
        known = self._read.get(path)
        if known is not None and known[0] == state and all(state[:1]):
            return known[1]
        run = read_run(name, path)
        if run is not None and run.status not in ("running", "interrupted"):
            self._read[path] = (state, run)
        return run

    def sweeps(self) -> list[str]:
        """Names of sweep folders, newest first."""
        return self._names("sweep.json")

    def indexes(self) -> list[str]:
        """Names of indexes, newest first."""
        return self._names(CURRENT)

    def bases(self, runs: Sequence[Run]) -> list[str]:
        """Models that need no download: those that runs began with, the tiny one, and SmolLM2 where it was fetched."""
        names = [TINY, *([SMOLLM2] if cached_folder(SMOLLM2) else []), *(run.model for run in runs if run.has_model)]
        return [
            name for name in dict.fromkeys(names) if name.startswith(PACKAGED) or Path(name).exists() or cached_folder(name)
        ]

    def _names(self, file: str) -> list[str]:
        paths = sorted(self._files(file), key=_modified, reverse=True)
        return [str(path.parent.relative_to(self.outputs)) for path in paths]

    def _files(self, name: str) -> Iterator[Path]:
        """Files of that name, links that leave the folder not followed."""
        for depth in range(1, DEEPEST + 1):
            for path in self.outputs.glob("/".join(["*"] * depth + [name])):
                if path.resolve().is_relative_to(self.outputs.resolve()):
                    yield path


def read_run(name: str, path: Path) -> Run | None:
    """What a run folder says of itself; None where it has gone or says nothing that can be read."""
    folder = RunFolder(path)
    try:
        record = folder.record
        status = str(record["status"])
        if status == "running" and not is_locked(path):
            status = "interrupted"
        evaluation = read_evaluation(folder) or {}
        gap, verdict = evaluation.get("difference"), evaluation.get("verdict")
        steps = _number(record.get("steps")) or _steps_so_far(folder, status)
        return Run(
            name=name, folder=folder, status=status, model=str(record.get("model", "")),
            base_weights=str(record.get("weights", "")), rewards=tuple(evaluation.get("components", {})) or _rewards_of(folder),
            started=str(record.get("started", "")), steps=steps, seconds=_number(record.get("seconds")),
            seed=_number(record.get("seed")), verdict=verdict if isinstance(verdict, str) else None,
            base_reward=_number(evaluation.get("base_reward")), reward=_number(evaluation.get("trained_reward")),
            difference=gap if isinstance(gap, dict) else None, kl=_number(evaluation.get("kl")),
        )  # fmt: skip
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_evaluation(folder: RunFolder) -> dict[str, Any] | None:
    """evaluation.json, if there is one that can be read."""
    try:
        found = json.loads(folder.evaluation_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl so far that are a step's; none where there is no such file, or it has gone."""
    try:
        lines: list[Any] = read_json_lines(folder.metrics_file)
    except (OSError, ValueError):
        return []
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]


def _steps_so_far(folder: RunFolder, status: str) -> int | None:
    """Of a run that has not come to its end."""
    lines = read_metrics(folder) if status in ("running", "interrupted") else []
    return lines[-1]["step"] if lines else None


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) else None


def _rewards_of(folder: RunFolder) -> tuple[str, ...]:
    """Names of what is rewarded, by the first metrics that were logged."""
    rows = read_metrics(folder)
    keys = rows[0] if rows else {}
    return tuple(key.split("/")[1] for key in keys if key.startswith("rewards/") and key.endswith("/mean"))


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has just gone
        return 0.0

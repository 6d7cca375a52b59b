"""What a sweep is going to do, written down before its first job begins: sweep.json in the sweep's folder."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from llmrl.config import TrainConfig, plain
from llmrl.errors import UserError, one_line
from llmrl.files import replace_text

PLAN_FILE = "sweep.json"
OUTPUTS = Path("outputs")
OF_THE_SWEEP = ("resume", "sweep", "tracker")
"""Parts of a config that say nothing about what a job computes."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep: `overrides` are the words that tell it from the others, `folder` is its place in the sweep's."""

    number: int
    overrides: tuple[str, ...]
    folder: str
    config_sha256: str
    same_as: int | None = None  # an earlier job of the very same config, which is run in its stead


@dataclass
class Plan:
    """A sweep: the words it was started with, and its jobs."""

    words: list[str]
    jobs: list[Job]
    llmrl: str = field(default_factory=lambda: metadata.version("llmrl"))
    started_in: str = field(default_factory=lambda: str(Path.cwd()))
    total: int = 0  # jobs that there will be in the end, where a search proposes them one by one

    @property
    def count(self) -> int:
        return max(self.total, len(self.jobs))

    def write(self, folder: Path) -> None:
        """Atomically. Raises UserError if the folder can't be written to."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(folder / PLAN_FILE, json.dumps(asdict(self), indent=1) + "\n")
        except OSError as error:
            raise UserError(f"the sweep folder {folder} can't be written to: {error.strerror or error}") from error


def read_plan(folder: Path) -> Plan:
    """Raises UserError if the folder holds no sweep, or what it says of itself can't be read."""
    path = folder / PLAN_FILE
    if not path.is_file():
        raise UserError(f"{folder} is no sweep folder: it has no {PLAN_FILE}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        jobs = [Job(**{**each, "overrides": tuple(each["overrides"])}) for each in found["jobs"]]
        words, total = [str(word) for word in found["words"]], int(found.get("total", 0))
        return Plan(words, jobs, str(found["llmrl"]), str(found["started_in"]), total)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read: {one_line(error)}") from error


def find_sweep(name: str) -> Path:
    """The sweep folder of that path; `latest` is the newest under outputs/. Raises UserError if there is none."""
    if name == "latest":
        found = sorted(OUTPUTS.glob(f"**/{PLAN_FILE}"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(f"there is no sweep under {OUTPUTS}/ yet; start one with python -m llmrl.train -m ...")
        return found[-1].parent
    folder = Path(name).expanduser()
    read_plan(folder)
    return folder


def find_job(folder: Path) -> tuple[Job, int]:
    """The job whose folder that is, and how many jobs its sweep has. Raises UserError if the plan does not know it."""
    plan = read_plan(folder.parent)
    for job in plan.jobs:
        if job.folder == folder.name:
            return job, plan.count
    raise UserError(f"{folder.parent / PLAN_FILE} has no job of the folder {folder.name}")


def resumed_words(words: Sequence[str]) -> list[str]:
    """The command line that goes on with a sweep, where `words` ask for it: the one it was started with, in its folder.

    Words of Hydra's own (another launcher) are taken over. Raises UserError for any other: a sweep goes on as it began.
    """
    wanted = next((word.partition("=")[2] for word in words if word.startswith("sweep.resume=")), None)
    if wanted is None:
        return list(words)
    folder = find_sweep(wanted.strip("'\""))
    plan = read_plan(folder)
    if plan.started_in != str(Path.cwd()):
        raise UserError(
            f"the sweep was started in {plan.started_in}, and its words may name files there: go on with it from there"
        )
    own = [word for word in words if word.startswith("hydra") and not word.startswith("hydra.sweep.dir=")]
    if others := [word for word in words if word not in own and not word.startswith(("sweep.resume=", "-"))]:
        raise UserError(f"sweep.resume= goes on with the words of the sweep; {others[0]} can't be changed")
    replaced = {word.partition("=")[0] for word in own} | {"hydra.sweep.dir", "sweep.resume"}
    kept = [word for word in plan.words if word.partition("=")[0] not in replaced]
    if not {"-m", "--multirun"} & set(kept):
        kept.append("--multirun")
    path = str(folder.absolute()).replace("'", "\\'")
    return [*kept, *own, f"hydra.sweep.dir='{path}'", f"sweep.resume='{path}'"]


def fingerprint(config: TrainConfig) -> str:
    """SHA-256 of everything in a config that a job's result depends on."""
    settings = {key: value for key, value in plain(config).items() if key not in OF_THE_SWEEP}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def folder_name(number: int, overrides: Sequence[str]) -> str:
    """A folder for a job: its number, so that no two are alike, and its words as far as a file system takes them."""
    shorter = [re.sub(r"(\d\.\d{5})\d+", r"\1", word) for word in overrides]  # a search's numbers have 17 digits
    words = re.sub(r"[^\w.+-]+", "-", "_".join(shorter)).strip("-")
    cut = words.encode()[:100].decode(errors="ignore")  # a name has at most 255 bytes
    return f"{number:03d}_{cut or 'job'}"


def make_jobs(
    lists: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], TrainConfig], first: int = 0, told: Sequence[str] = ()
) -> list[Job]:
    """A job for each list of overrides, every config composed and checked.

    Raises UserError naming the first job that can't be run. Overrides that are the same everywhere name no folder, but `told`.
    """
    common = set(lists[0]).intersection(*lists[1:]) - set(told)
    jobs: list[Job] = []
    seen: dict[str, int] = {}
    for number, overrides in enumerate(lists, first):
        telling = tuple(word.lstrip("+") for word in overrides if word not in common and not word.startswith("hydra"))
        try:
            digest = fingerprint(compose(overrides))
        except UserError as error:
            raise UserError(
                f"job {number - first + 1} of {len(lists)} ({' '.join(telling) or 'no overrides'}): {error}"
            ) from error
        jobs.append(Job(number, telling, folder_name(number, telling), digest, seen.get(digest)))
        seen.setdefault(digest, number)
    return jobs


def label(overrides: Sequence[str]) -> str:
    """A job's words as a person reads them."""
    return " ".join(overrides) or "(nothing varied)"


def settings_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Key to value of each word, numbers as numbers."""
    found: dict[str, Any] = {}
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = value.strip("'\"")
    return found

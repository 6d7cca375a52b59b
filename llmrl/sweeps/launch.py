"""How jobs reach a launcher: configs composed and checked, folders named, processors and memory shared out."""

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from llmrl.compose import to_config
from llmrl.config import TrainConfig
from llmrl.errors import UserError, one_line
from llmrl.explain import explain
from llmrl.sweeps.memory import job_bytes, jobs_at_once
from llmrl.sweeps.plan import Job
from llmrl.sweeps.results import read_result

PRIMITIVES = "128"
"""oneDNN keeps a kernel for each shape it has seen, 1024 by default: jobs of all lengths would fill that in a sweep."""


@dataclass
class Launch:
    """What Hydra hands a sweeper."""

    context: HydraContext
    master: DictConfig
    task: TaskFunction

    @property
    def folder(self) -> Path:
        """The sweep's, absolute: jobs on other machines and in other folders mean the same."""
        return Path(str(self.master.hydra.sweep.dir)).absolute()

    def compose(self, overrides: Sequence[str]) -> TrainConfig:
        """The config of a job. Raises UserError in one line."""
        try:
            raw = self.context.config_loader.load_sweep_config(self.master, list(overrides))
            with read_write(raw), open_dict(raw):
                del raw["hydra"]
            return to_config(raw, TrainConfig, list(overrides))
        except UserError:
            raise
        except (HydraException, OmegaConfBaseException, OSError) as error:
            raise UserError(explain(error, TrainConfig) or one_line(error)) from error

    def run(self, jobs: Sequence[tuple[Job, Sequence[str]]], configs: Callable[[Job], TrainConfig]) -> None:
        """Have the launcher run the jobs, all of them or as many as it can: what became of each is in its folder."""
        if not jobs or self._launched(jobs, configs) or self.at_once == 1:
            return
        left = [each for each in jobs if read_result(self.folder, each[0]).status in ("missing", "interrupted")]
        if left:  # with a worker that was killed go all the others
            print(f"llmrl train: {len(left)} jobs are started once more", file=sys.stderr)
            self._launched(left, configs)

    def _launched(self, jobs: Sequence[tuple[Job, Sequence[str]]], configs: Callable[[Job], TrainConfig]) -> bool:
        """Whether the launcher came to its end with these jobs."""
        if self.at_once > 1:
            self._share_out(len(jobs), max((configs(job) for job, _ in jobs), key=lambda config: job_bytes(config) or 0))
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRIMITIVES)
        logging.getLogger("hydra").setLevel(logging.WARNING)  # each job says its own words
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task, config=self.master
        )
        try:
            with every_job_awaited(str(self.master.hydra.launcher._target_)):
                for part in [[each] for each in jobs] if self.in_process else [jobs]:
                    launcher.launch([self.words(job, overrides) for job, overrides in part], initial_job_idx=part[0][0].number)
            return True
        except Exception as error:  # a worker was killed, a cluster refused: the jobs that are left can be gone on with
            print(f"llmrl train: the launcher gave up: {type(error).__name__}: {one_line(error)[:300]}", file=sys.stderr)
            return False

    @property
    def in_process(self) -> bool:
        """Whether jobs run here, one after the other. What a launcher gives back of each is megabytes, and of no use to us."""
        return str(self.master.hydra.launcher._target_).endswith(".BasicLauncher")

    @cached_property
    def at_once(self) -> int:
        """Jobs that the launcher was asked to run side by side, before memory was looked at; 1 where it has no such number."""
        wanted = int(self.master.hydra.launcher.get("n_jobs", 1))
        return _processors() if wanted < 0 else wanted

    def end(self, status: int) -> None:
        """Say how the sweep ended: the exit status."""
        self.task.statuses.append(status)  # type: ignore[attr-defined]

    def words(self, job: Job, overrides: Sequence[str]) -> list[str]:
        """A job's overrides with its place."""
        return [*overrides, f"hydra.sweep.dir={quoted(str(self.folder))}", f"hydra.sweep.subdir={quoted(job.folder)}"]

    def check(self) -> None:
        """Raises UserError where the launcher is not installed or its settings make no sense, before anything is written."""
        launcher = self.master.hydra.launcher
        module, choice = str(launcher._target_).rpartition(".")[0], self.master.hydra.runtime.choices["hydra/launcher"]
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            extra = "joblib" if "joblib" in module else "submitit" if "submitit" in module else module
            raise UserError(f"hydra/launcher={choice} is not installed: pip install 'llmrl[{extra}]'")
        if launcher.get("n_jobs", 1) in (0, None) or launcher.get("n_jobs", 1) < -1:
            raise UserError(f"hydra.launcher.n_jobs={launcher.n_jobs}: it must be at least 1, or -1 for one a processor")

    def _share_out(self, jobs: int, config: TrainConfig) -> None:
        """Processes side by side: no more than fit into memory, and each its part of the processors."""
        launcher = self.master.hydra.launcher
        at_once = jobs_at_once(min(self.at_once, jobs), config)
        with read_write(self.master), open_dict(launcher):
            launcher.n_jobs = at_once
        os.environ["OMP_NUM_THREADS"] = str(max(1, _processors() // at_once))  # the workers are born with it


@contextmanager
def every_job_awaited(target: str) -> Iterator[None]:
    """Hydra asks submitit for one job's result after the other, and would stop at the first that crashed: it gets None."""
    if "submitit" not in target:
        yield
        return
    from submitit import Job as Submitted  # here, as it is an extra

    results = Submitted.results

    def patient(job: Submitted) -> list[Any]:
        try:
            return results(job)
        except Exception as error:  # killed, or out of memory or time: its folder tells how far it came
            print(f"llmrl train: job {job.job_id} crashed: {one_line(error)[:300]}", file=sys.stderr)
            return [None]

    Submitted.results = patient  # type: ignore[method-assign]
    try:
        yield
    finally:
        Submitted.results = results  # type: ignore[method-assign]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quoted(value: str) -> str:
    """A value that Hydra's grammar takes as it is."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The sweep folder, this process's own. Raises UserError if another sweep runs in it or it can't be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"a sweep is running in {folder}; wait for it, or choose another hydra.sweep.dir") from None
    except OSError as error:
        raise UserError(f"the sweep folder {folder} can't be written to: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
        if [path.name for path in folder.iterdir()] == [".lock"]:  # refused before anything was written
            (folder / ".lock").unlink()
            folder.rmdir()


def save_composed(folder: Path, master: DictConfig) -> None:
    """multirun.yaml, as Hydra's own sweeper leaves it."""
    OmegaConf.save(master, folder / "multirun.yaml")

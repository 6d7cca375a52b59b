"""Every combination of what is listed: planned and checked before the first job, gone on with after a kill."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from llmrl.config import TrainConfig
from llmrl.errors import UserError
from llmrl.sweeps.conclude import concluding
from llmrl.sweeps.launch import Launch, held, save_composed
from llmrl.sweeps.left import is_left
from llmrl.sweeps.plan import PLAN_FILE, Job, Plan, label, make_jobs, read_plan


def run_grid(launch: Launch, words: Sequence[str], most_at_a_time: int | None) -> None:
    """Run the sweep that `words` mean in its folder, and conclude it. Raises UserError before the first job, never after."""
    folder, resume = launch.folder, OmegaConf.select(launch.master, "sweep.resume") is not None
    launch.check()
    lists = _combinations(launch, words)
    with held(folder):
        if (folder / PLAN_FILE).is_file() != resume:
            how = f"{folder} holds a sweep already; sweep.resume={folder} goes on with it, another hydra.sweep.dir begins anew"
            raise UserError(how if not resume else f"{folder} is no sweep folder: it has no {PLAN_FILE}")
        configs: dict[int, TrainConfig] = {}

        def compose(overrides: Sequence[str]) -> TrainConfig:
            config = launch.compose(overrides)
            configs[len(configs)] = config
            return config

        jobs = make_jobs(lists, compose)
        if resume:
            jobs = _as_planned(read_plan(folder), jobs)
        else:
            save_composed(folder, launch.master)
            Plan(sys.argv[1:], jobs).write(folder)
        todo = [(job, overrides) for job, overrides in zip(jobs, lists, strict=True) if is_left(folder, job)]
        _announce(folder, jobs, len(todo))
        with concluding(launch):
            for start in range(0, len(todo), most_at_a_time or len(todo) or 1):
                launch.run(todo[start : start + (most_at_a_time or len(todo))], lambda job: configs[job.number])


def _combinations(launch: Launch, words: Sequence[str]) -> list[list[str]]:
    parser = OverridesParser.create(config_loader=launch.context.config_loader)
    return BasicSweeper.split_arguments(parser.parse_overrides(list(words)), None)[0]


def _as_planned(plan: Plan, jobs: Sequence[Job]) -> list[Job]:
    """The jobs as they were planned. Raises UserError where they have changed: finished ones would be ranked with others."""
    if len(plan.jobs) != len(jobs):
        raise UserError(
            f"the sweep began with {len(plan.jobs)} jobs, and would now have {len(jobs)}: its config files have changed"
        )
    for then, now in zip(plan.jobs, jobs, strict=True):
        if then.config_sha256 != now.config_sha256:
            raise UserError(
                f"job {now.number + 1} ({label(now.overrides)}) would not have the config that the sweep began with: files "
                f"under conf/ or llmrl itself have changed (it began with llmrl {plan.llmrl}); start a new sweep"
            )
    return plan.jobs


def _announce(folder: Path, jobs: Sequence[Job], left: int) -> None:
    twins = sum(job.same_as is not None for job in jobs)
    done = len(jobs) - twins - left
    parts = [f"{len(jobs)} jobs"]
    if twins:
        parts.append(f"{twins} of them the same as another and run once")
    if done:
        parts.append(f"{done} done before")
    print(f"llmrl: a sweep of {', '.join(parts)}, in {folder}", flush=True)

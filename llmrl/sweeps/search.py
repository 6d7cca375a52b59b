"""A search by Optuna: it proposes settings, jobs try them, held-out figures are what it learns from."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState, create_trial

from llmrl.errors import UserError, one_line
from llmrl.registry import did_you_mean
from llmrl.sweeps.conclude import concluding
from llmrl.sweeps.job import note_failure
from llmrl.sweeps.launch import Launch, held, save_composed
from llmrl.sweeps.left import is_left
from llmrl.sweeps.plan import PLAN_FILE, Job, Plan, label, make_jobs, read_plan
from llmrl.sweeps.results import Result, read_result

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {"reward": "maximize", "kl": "minimize", "seconds": "minimize"}
STUDY_FILE = "study.db"
JOB = "job"  # a trial's attribute: the number of its job


@dataclass
class SearchSettings:
    """hydra.sweeper.* of hydra/sweeper=optuna."""

    n_trials: int = 20  # jobs in all; more than before goes on with a search that was done
    n_jobs: int | None = None  # proposed at a time; null: as many as the launcher runs side by side
    objectives: Sequence[str] = field(default_factory=lambda: ["reward"])  # held-out reward up; kl and seconds down
    startup_trials: int = 8  # drawn at random before TPE begins to learn
    seed: int = 0  # of the proposals

    def __post_init__(self) -> None:
        for name, value in (("n_trials", self.n_trials), ("n_jobs", 1 if self.n_jobs is None else self.n_jobs)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"hydra.sweeper.{name}={value}: it must be a whole number, at least 1")
        if unknown := [name for name in self.objectives if name not in OBJECTIVES]:
            raise UserError(f"hydra.sweeper.objectives: {unknown[0]!r} is none{did_you_mean(unknown[0], OBJECTIVES)}")
        if not self.objectives:
            raise UserError("hydra.sweeper.objectives is empty: reward, kl, seconds")


@dataclass
class Space:
    """What is searched, and the words that every job is given besides."""

    distributions: dict[str, BaseDistribution]
    fixed: list[str]

    def as_json(self) -> str:
        """To tell whether a study is of this very space."""
        return json.dumps({key: distribution_to_json(each) for key, each in self.distributions.items()}, sort_keys=True)


def run_search(launch: Launch, words: Sequence[str], settings: SearchSettings) -> None:
    """Propose, run and learn until there are `n_trials` jobs, and conclude. Raises UserError before the first job."""
    folder, resume = launch.folder, OmegaConf.select(launch.master, "sweep.resume") is not None
    launch.check()
    parser = OverridesParser.create(config_loader=launch.context.config_loader)
    space = space_of(parser.parse_overrides(list(words)))
    with held(folder):
        if (folder / PLAN_FILE).is_file() and not resume:
            raise UserError(f"{folder} holds a sweep already; sweep.resume={folder} goes on with it")
        plan = read_plan(folder) if resume else Plan(sys.argv[1:], [])
        plan.total = settings.n_trials
        check(launch, space)
        search = Search(launch, space, settings, plan, open_study(folder, space, settings, len(plan.jobs)))
        save_composed(folder, launch.master)
        plan.write(folder)
        print(f"llmrl: a search of {settings.n_trials} jobs, {len(plan.jobs)} of them done before, in {folder}", flush=True)
        with concluding(launch):
            search.run()


def space_of(overrides: Sequence[Override]) -> Space:
    """`a,b,c` is a choice, `range(1,9)` whole numbers, `interval(0,1)` numbers, `tag(log, interval(1e-6,1e-3))` on a log scale.

    Raises UserError where nothing is searched, or the seed is: luck is not a setting.
    """
    last = {_bare(override.get_key_element()): override for override in overrides}  # a recipe's come first
    space = Space({}, [])
    for bare, override in last.items():
        key = override.get_key_element()
        if not override.is_sweep_override():
            space.fixed.append(f"{key}={override.get_value_element_as_str()}")
        elif bare == "seed":
            raise UserError("seed can't be searched: a lucky one would win; give one seed here, and try what wins with others")
        else:
            space.distributions[key] = _distribution(override)
    if not space.distributions:
        raise UserError("nothing is searched: give a choice (reward=a,b), a range(1,9) or an interval(1e-6,1e-4)")
    return space


def _bare(key: str) -> str:
    return key.lstrip("+")


def _distribution(override: Override) -> BaseDistribution:
    value, key = override.value(), override.get_key_element()
    try:
        if isinstance(value, ChoiceSweep):
            return CategoricalDistribution(list(override.sweep_string_iterator()))
        if isinstance(value, RangeSweep):
            start, stop, step = value.start, value.stop, value.step
            if all(isinstance(each, int) for each in (start, stop, step)):
                return IntDistribution(int(start or 0), int(stop or 0) - 1, step=int(step))
            return _float_range(float(start or 0), float(stop or 0), float(step))
        if isinstance(value, IntervalSweep):
            low, high, log = value.start, value.end, "log" in value.tags
            whole = isinstance(low, int) and isinstance(high, int)
            return IntDistribution(low, high, log=log) if whole else FloatDistribution(float(low), float(high), log=log)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"{key}: {one_line(error)}") from None
    raise UserError(f"{key}: {override.get_value_element_as_str()} can't be searched; use a,b or range() or interval()")


def _float_range(start: float, stop: float, step: float) -> FloatDistribution:
    """Hydra's range leaves its end out; Optuna's would have it in."""
    count = math.ceil(round((stop - start) / step, 9))
    if count < 1:
        raise ValueError(f"range({start:g},{stop:g},{step:g}) is empty")
    return FloatDistribution(start, start + (count - 1) * step, step=step)


def open_study(folder: Path, space: Space, settings: SearchSettings, begun: int = 0) -> optuna.Study:
    """The study in the sweep's folder, of which `begun` jobs are planned. Raises UserError if it is of another space."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: list[Any] = [OBJECTIVES[name] for name in settings.objectives]
    storage = f"sqlite:///{(folder / STUDY_FILE).absolute()}"
    try:
        study = optuna.create_study(storage=storage, study_name="sweep", directions=directions, load_if_exists=True)
        seed = settings.seed + max(len(study.trials), begun)  # one that is gone on with would propose its first trials again
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.startup_trials, constant_liar=True)
        told = study.user_attrs
        wanted = {"space": space.as_json(), "objectives": list(settings.objectives)}
        for key, value in wanted.items():
            if key in told and told[key] != value:
                raise UserError(f"{folder / STUDY_FILE} is a study of another search space ({key} differ): start a new sweep")
            study.set_user_attr(key, value)
    except UserError:
        raise
    except Exception as error:  # SQLite's own, or Optuna's, about a file that is something else
        raise UserError(f"{folder / STUDY_FILE} can't be used as a study: {one_line(error)[:200]}") from error
    return study


def check(launch: Launch, space: Space) -> None:
    """Compose a job of each choice there is. Raises UserError for one that does not exist, or that has no held-out reward."""
    first = {key: ends_of(key, each)[0] for key, each in space.distributions.items()}
    for key, each in space.distributions.items():
        for word in ends_of(key, each):
            config = launch.compose([*space.fixed, *(first | {key: word}).values()])
            if not config.evaluation.enabled:
                raise UserError("evaluation.enabled=false: a search learns from the final comparison, and would learn nothing")


@dataclass
class Search:
    """A search at work."""

    launch: Launch
    space: Space
    settings: SearchSettings
    plan: Plan
    study: optuna.Study

    def run(self) -> None:
        """Finish what was begun, try again what failed, then propose until there are enough."""
        self._catch_up()
        at_once = self.settings.n_jobs or self.launch.at_once
        while (left := self.settings.n_trials - len(self.plan.jobs)) > 0:
            trials = [self.study.ask(self.space.distributions) for _ in range(min(left, at_once))]
            jobs = [self._planned(trial.params) for trial in trials]
            self.plan.write(self.launch.folder)
            for trial, job in zip(trials, jobs, strict=True):
                trial.set_user_attr(JOB, job.number)
            self._run(jobs)
            for trial, job in zip(trials, jobs, strict=True):
                self._tell(trial.number, job)

    def _catch_up(self) -> None:
        """Run what is left of the plan, and tell the study what it does not know: of trials that a kill left open, of failures
        that went well this time, and everything if study.db was lost. A study keeps a failure: success is one more trial."""
        self._run(self.plan.jobs)
        by_number = {job.number: job for job in self.plan.jobs}
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            job = by_number.get(trial.user_attrs.get(JOB, -1))
            if job is None:  # killed before it was planned
                self.study.tell(trial.number, state=TrialState.FAIL)
            else:
                self._tell(trial.number, job)
        known = {trial.user_attrs.get(JOB) for trial in self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])}
        for job in self.plan.jobs:
            result = self._result(job)
            if job.number not in known and result.counts:
                told, names, space = self._figures(result), {JOB: job.number}, self.space.distributions
                self.study.add_trial(
                    create_trial(params=self._params_of(job), distributions=space, values=told, user_attrs=names)
                )

    def _words_of(self, params: Mapping[str, Any]) -> list[str]:
        return [*self.space.fixed, *(f"{key}={value}" for key, value in params.items())]

    def _params_of(self, job: Job) -> dict[str, Any]:
        """What was proposed for a job, from its words. Raises UserError where they are of another space."""
        words = dict(word.split("=", 1) for word in job.overrides)
        if set(words) != {_bare(key) for key in self.space.distributions}:
            raise UserError(f"job {job.number + 1} ({label(job.overrides)}) is of another search space: start a new sweep")
        kinds = {CategoricalDistribution: str, IntDistribution: int, FloatDistribution: float}
        return {key: kinds[type(each)](words[_bare(key)]) for key, each in self.space.distributions.items()}

    def _planned(self, params: Mapping[str, Any]) -> Job:
        """The job of a proposal. Where its config is refused that is said in its folder, and it has no hash."""
        number = max((job.number for job in self.plan.jobs), default=-1) + 1
        words, telling = self._words_of(params), tuple(f"{_bare(key)}={value}" for key, value in params.items())
        try:
            job = make_jobs([words], self.launch.compose, number, words[len(self.space.fixed) :])[0]
            twins = [each for each in self.plan.jobs if each.config_sha256 == job.config_sha256]
            job = Job(number, telling, job.folder, job.config_sha256, twins[0].number if twins else None)
        except UserError as error:
            job = Job(number, telling, f"{number:03d}_trial", "")
            (self.launch.folder / job.folder).mkdir(parents=True, exist_ok=True)
            note_failure(self.launch.folder / job.folder, error, one_line(error))
        self.plan.jobs.append(job)
        return job

    def _run(self, jobs: Sequence[Job]) -> None:
        words = {job.number: self._words_of(self._params_of(job)) for job in jobs if job.config_sha256}
        left = [job for job in jobs if job.config_sha256 and is_left(self.launch.folder, job)]
        self.launch.run([(job, words[job.number]) for job in left], lambda job: self.launch.compose(words[job.number]))

    def _result(self, job: Job) -> Result:
        """A job's end, or that of the earlier job which was the same."""
        twins = [each for each in self.plan.jobs if each.number == job.same_as]
        return read_result(self.launch.folder, twins[0] if twins else job)

    def _tell(self, trial: int, job: Job) -> None:
        """Tell the study how a job ended, if it did: it may be at work in another process still."""
        result = self._result(job)
        if result.counts:
            self.study.tell(trial, self._figures(result))
        elif result.status != "running":
            self.study.tell(trial, state=TrialState.FAIL)

    def _figures(self, result: Result) -> list[float]:
        figures = {"reward": result.reward.mean, "kl": result.kl, "seconds": result.seconds}  # type: ignore[union-attr]
        return [figures[name] for name in self.settings.objectives]


def ends_of(key: str, each: BaseDistribution) -> list[str]:
    """Every choice, or the two ends of a range."""
    if isinstance(each, CategoricalDistribution):
        return [f"{key}={choice}" for choice in each.choices]
    assert isinstance(each, IntDistribution | FloatDistribution)
    return [f"{key}={each.low}", f"{key}={each.high}"]

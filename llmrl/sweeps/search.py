"""A search by Optuna: it proposes settings, jobs try them, held-out figures are what it learns from."""

import json
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
from llmrl.sweeps.plan import PLAN_FILE, Job, Plan, make_jobs, read_plan
from llmrl.sweeps.results import Result, read_result

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {"reward": "maximize", "kl": "minimize", "seconds": "minimize"}
STUDY_FILE = "study.db"
AGAIN_OF = "again_of"  # a trial that failed, run once more


@dataclass
class SearchSettings:
    """hydra.sweeper.* of hydra/sweeper=optuna."""

    n_trials: int = 20  # jobs in all; more than before goes on with a search that was done
    n_jobs: int = 1  # proposed at a time, for a launcher that runs them side by side
    objectives: Sequence[str] = field(default_factory=lambda: ["reward"])  # held-out reward up; kl and seconds down
    startup_trials: int = 8  # drawn at random before TPE begins to learn
    seed: int = 0  # of the proposals

    def __post_init__(self) -> None:
        for name in ("n_trials", "n_jobs"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"hydra.sweeper.{name}={getattr(self, name)}: it must be a whole number, at least 1")
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
        search = Search(launch, space, settings, plan, open_study(folder, space, settings))
        search.check()
        save_composed(folder, launch.master)
        plan.write(folder)
        print(f"llmrl: a search of {settings.n_trials} jobs, {len(plan.jobs)} of them done before, in {folder}", flush=True)
        with concluding(launch):
            search.run()


def space_of(overrides: Sequence[Override]) -> Space:
    """`a,b,c` is a choice, `range(1,9)` whole numbers, `interval(0,1)` numbers, `tag(log, interval(1e-6,1e-3))` on a log scale.

    Raises UserError where nothing is searched, or the seed is: luck is not a setting.
    """
    space = Space({}, [])
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            space.fixed.append(f"{key}={override.get_value_element_as_str()}")
        elif key == "seed":
            raise UserError("seed can't be searched: a lucky one would win; give one seed here, and try what wins with others")
        else:
            space.distributions[key] = _distribution(override)
    if not space.distributions:
        raise UserError("nothing is searched: give a choice (reward=a,b), a range(1,9) or an interval(1e-6,1e-4)")
    return space


def _distribution(override: Override) -> BaseDistribution:
    value, key = override.value(), override.get_key_element()
    try:
        if isinstance(value, ChoiceSweep):
            return CategoricalDistribution(list(override.sweep_string_iterator()))
        if isinstance(value, RangeSweep):
            start, stop, step = value.start, value.stop, value.step
            if all(isinstance(each, int) for each in (start, stop, step)):
                return IntDistribution(int(start or 0), int(stop or 0) - 1, step=int(step))
            return FloatDistribution(float(start or 0), float(stop or 0), step=float(step))
        if isinstance(value, IntervalSweep):
            low, high, log = value.start, value.end, "log" in value.tags
            whole = isinstance(low, int) and isinstance(high, int)
            return IntDistribution(low, high, log=log) if whole else FloatDistribution(float(low), float(high), log=log)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"{key}: {one_line(error)}") from None
    raise UserError(f"{key}: {override.get_value_element_as_str()} can't be searched; use a,b or range() or interval()")


def open_study(folder: Path, space: Space, settings: SearchSettings) -> optuna.Study:
    """The study in the sweep's folder. Raises UserError if it is of another space or other objectives."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: list[Any] = [OBJECTIVES[name] for name in settings.objectives]
    storage = f"sqlite:///{(folder / STUDY_FILE).absolute()}"
    try:
        study = optuna.create_study(storage=storage, study_name="sweep", directions=directions, load_if_exists=True)
        seed = settings.seed + len(study.trials)  # one that is gone on with would propose its first trials again
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.startup_trials)
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


@dataclass
class Search:
    """A search at work."""

    launch: Launch
    space: Space
    settings: SearchSettings
    plan: Plan
    study: optuna.Study
    overrides: dict[int, list[str]] = field(default_factory=dict)  # of each job of this process

    def check(self) -> None:
        """Compose a job of each choice there is. Raises UserError for one that does not exist."""
        first = {key: ends_of(key, each)[0] for key, each in self.space.distributions.items()}
        for key, each in self.space.distributions.items():
            for word in ends_of(key, each):
                self.launch.compose([*self.space.fixed, *(first | {key: word}).values()])

    def run(self) -> None:
        """Finish what was begun, try again what failed, then propose until there are enough."""
        self._go_on()
        self._again()
        while (left := self.settings.n_trials - len(self.plan.jobs)) > 0:
            trials = [self.study.ask(self.space.distributions) for _ in range(min(left, self.settings.n_jobs))]
            jobs = [self._planned(trial.number, trial.params) for trial in trials]
            self.plan.write(self.launch.folder)
            self._carry_out([job for job in jobs if job])

    def _go_on(self) -> None:
        """Trials that a kill left open: their jobs go on, or, if none was planned yet, they are dropped."""
        by_number = {job.number: job for job in self.plan.jobs}
        begun = []
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            job = by_number.get(trial.number)
            if job is None:
                self.study.tell(trial.number, state=TrialState.FAIL)
            else:
                self.overrides[job.number] = self._words_of(trial.params)
                begun.append(job)
        self._carry_out(begun)

    def _again(self) -> None:
        """What failed before is run once more in its folder. A study keeps the failure: success is one more trial in it."""
        trials = self.study.get_trials(deepcopy=False)
        mended = {trial.user_attrs.get(AGAIN_OF) for trial in trials}
        failed = [trial for trial in trials if trial.state is TrialState.FAIL and trial.number not in mended]
        by_number = {job.number: job for job in self.plan.jobs if job.config_sha256 and job.same_as is None}
        again = [(by_number[trial.number], trial) for trial in failed if trial.number in by_number]
        self.overrides |= {job.number: self._words_of(trial.params) for job, trial in again}
        self._run([job for job, trial in again if not read_result(self.launch.folder, job).counts])
        for job, trial in again:
            result = read_result(self.launch.folder, job)
            if result.counts:
                told, names = self._figures(result), {AGAIN_OF: trial.number}
                self.study.add_trial(
                    create_trial(params=trial.params, distributions=trial.distributions, values=told, user_attrs=names)
                )

    def _words_of(self, params: Mapping[str, Any]) -> list[str]:
        return [*self.space.fixed, *(f"{key}={value}" for key, value in params.items())]

    def _planned(self, number: int, params: Mapping[str, Any]) -> Job | None:
        """The job of a proposal; None where its config is refused, which the study is told."""
        words = self._words_of(params)
        telling = tuple(f"{key}={value}" for key, value in params.items())
        job = Job(number, telling, f"{number:03d}_trial", "")
        try:
            job = make_jobs([words], self.launch.compose, number, telling)[0]
            twins = [each for each in self.plan.jobs if each.config_sha256 == job.config_sha256]
            job = Job(job.number, job.overrides, job.folder, job.config_sha256, twins[0].number if twins else None)
        except UserError as error:
            self.plan.jobs.append(job)
            (self.launch.folder / job.folder).mkdir(parents=True, exist_ok=True)
            note_failure(self.launch.folder / job.folder, error, one_line(error))
            self.study.tell(number, state=TrialState.FAIL)
            return None
        self.plan.jobs.append(job)
        self.overrides[number] = words
        return job

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        self._run([job for job in jobs if job.same_as is None])
        by_number = {job.number: job for job in self.plan.jobs}
        for job in jobs:
            twin = by_number[job.same_as] if job.same_as is not None else job
            self._tell(job.number, read_result(self.launch.folder, twin))

    def _run(self, jobs: Sequence[Job]) -> None:
        words = self.overrides
        self.launch.run([(job, words[job.number]) for job in jobs], lambda job: self.launch.compose(words[job.number]))

    def _tell(self, number: int, result: Result) -> None:
        if not result.counts:
            self.study.tell(number, state=TrialState.FAIL)
            return
        self.study.tell(number, self._figures(result))

    def _figures(self, result: Result) -> list[float]:
        figures = {"reward": result.reward.mean, "kl": result.kl, "seconds": result.seconds}  # type: ignore[union-attr]
        return [figures[name] for name in self.settings.objectives]


def ends_of(key: str, each: BaseDistribution) -> list[str]:
    """Every choice, or the two ends of a range."""
    if isinstance(each, CategoricalDistribution):
        return [f"{key}={choice}" for choice in each.choices]
    assert isinstance(each, IntDistribution | FloatDistribution)
    return [f"{key}={each.low}", f"{key}={each.high}"]

"""Going on with sweeps: whatever was deleted, killed or failed is run once more, and nothing else."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState

from llmrl import report
from llmrl.errors import UserError
from llmrl.sweeps import conclude as conclude_room
from llmrl.sweeps import job as job_room
from llmrl.sweeps.job import run_job
from llmrl.sweeps.launch import held
from llmrl.sweeps.left import is_left
from llmrl.sweeps.plan import Job, Plan, read_plan
from llmrl.sweeps.results import read_result
from llmrl.sweeps.search import SearchSettings, run_search
from llmrl.tracking.run_folder import RunFolder
from tests.sweeps.conftest import StubLaunch, leave_run
from tests.test_config import composed

WORDS = ("ppo.lr=tag(log,interval(1e-5,1e-3))", "ppo.epochs=range(1,5)", "reward=no_repeat,end_of_sentence")


def search(launch: StubLaunch, count: int, words: Sequence[str] = WORDS, resume: bool = False, **settings: object) -> list[int]:
    """Search until there are `count` jobs. Returns the numbers of the jobs that were run for it."""
    launch.ran.clear()
    launch.master.sweep.resume = str(launch.folder) if resume else None
    run_search(launch, words, SearchSettings(n_trials=count, **settings))  # type: ignore[arg-type]
    return list(launch.ran)


def trials(launch: StubLaunch) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{launch.folder / 'study.db'}").trials


def fail(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "error.txt").write_text("ValueError: broken\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("lost", "again", "aside"),
    [
        ((), False, False), (("run.json",), True, True), (("config.yaml",), True, True), (("evaluation.json",), True, True),
        (("run.json", "metrics.jsonl", "evaluation.json"), True, False), ((".",), True, False),
    ],
)  # fmt: skip
def test_a_finished_job_that_lost_files_begins_anew_in_an_empty_folder(
    tmp_path: Path, lost: Sequence[str], again: bool, aside: bool
) -> None:
    job = Job(0, ("seed=1",), "000_seed-1", "hash")
    folder = tmp_path / job.folder
    leave_run(folder, composed("train"), 0.5)
    for name in lost:
        shutil.rmtree(folder) if name == "." else (folder / name).unlink()
    assert is_left(tmp_path, job) == again
    assert (tmp_path / "damaged-000_seed-1-0").is_dir() == aside
    if aside:
        assert not folder.exists()
        assert read_result(tmp_path, job).status == "missing"


def test_a_search_without_its_study_learns_it_from_the_folders(launch: StubLaunch) -> None:
    assert search(launch, 3) == [0, 1, 2]
    before = [(trial.params, trial.values) for trial in trials(launch)]
    (launch.folder / "study.db").unlink()
    shutil.rmtree(launch.folder / read_plan(launch.folder).jobs[1].folder)
    assert search(launch, 4, resume=True) == [1, 3]
    assert [(trial.params, trial.values) for trial in trials(launch)][:3] == before
    plan = read_plan(launch.folder)
    assert [job.number for job in plan.jobs] == [0, 1, 2, 3]
    assert len({job.folder for job in plan.jobs}) == 4


def test_damaged_and_failed_jobs_are_run_once_more_and_told_once(launch: StubLaunch) -> None:
    search(launch, 3)
    folders = [launch.folder / job.folder for job in read_plan(launch.folder).jobs]
    (folders[0] / "config.yaml").unlink()
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{launch.folder / 'study.db'}")
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={"job": 7}))  # of no job
    assert search(launch, 3, resume=True) == [0]
    assert len(list(launch.folder.glob("damaged-*"))) == 1
    assert search(launch, 3, resume=True) == []
    assert [trial.state.name for trial in trials(launch)] == ["COMPLETE"] * 3 + ["FAIL"]
    assert launch.task.statuses == [0, 0, 0]  # type: ignore[attr-defined]


def test_a_trial_that_was_open_and_fails_is_tried_once(launch: StubLaunch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its job ran, which then fails; later it goes well, and takes no number from the jobs after it."""

    def killed(job: Job) -> float:
        raise KeyboardInterrupt

    launch.reward = killed
    with pytest.raises(KeyboardInterrupt):
        search(launch, 2)
    assert [trial.state.name for trial in trials(launch)] == ["RUNNING"]
    whole = StubLaunch.run

    def run_and_fail(self: StubLaunch, jobs: Sequence[tuple[Job, Sequence[str]]], configs: object) -> None:
        self.ran += [job.number for job, _ in jobs]
        for job, _ in jobs:
            (self.folder / job.folder).mkdir(exist_ok=True)
            fail(self.folder / job.folder)

    monkeypatch.setattr(StubLaunch, "run", run_and_fail)
    assert search(launch, 1, resume=True) == [0]
    monkeypatch.setattr(StubLaunch, "run", whole)
    launch.reward = lambda job: 0.5
    assert search(launch, 2, resume=True) == [0, 1]
    assert [trial.state.name for trial in trials(launch)] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [job.number for job in read_plan(launch.folder).jobs] == [0, 1]


def test_two_sweeps_in_one_folder_are_refused(launch: StubLaunch) -> None:
    with held(launch.folder), pytest.raises(UserError, match="a sweep is running in"):
        search(launch, 1)
    assert search(launch, 1) == [0]


def test_a_folder_that_can_only_be_read_has_its_table_shown(
    launch: StubLaunch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    search(launch, 1)
    for name in ("replace_text", "write_page", "write_csv"):
        monkeypatch.setattr(conclude_room, name, refuse)
    monkeypatch.setattr(sys, "argv", ["report", f"run={launch.folder}"])
    assert conclude_room.conclude(launch.folder) == 0
    said = capsys.readouterr().out
    assert "Held-out reward" in said
    assert "can't be written" in said
    assert report.main() == 2
    assert "Permission denied" in capsys.readouterr().err


def test_what_is_refused_leaves_no_study(launch: StubLaunch) -> None:
    with pytest.raises(UserError, match="did you mean 'no_repeat'"):
        search(launch, 2, ["reward=no_repeet,end_of_sentence"])
    assert not launch.folder.exists()
    with pytest.raises(UserError, match=r"evaluation\.enabled=false: a search learns from"):
        search(launch, 2, [*WORDS, "evaluation.enabled=false"])
    assert not launch.folder.exists()
    assert search(launch, 2, ["reward=no_repeat,end_of_sentence"])[0] == 0


def test_a_value_after_a_recipes_range_is_the_value(launch: StubLaunch) -> None:
    search(launch, 1, [*WORDS, "ppo.epochs=4"])
    job = read_plan(launch.folder).jobs[0]
    assert not any(word.startswith("ppo.epochs") for word in job.overrides)
    text = (launch.folder / job.folder / "config.yaml").read_text(encoding="utf-8")
    assert "epochs: 4" in text


def test_a_job_that_fails_before_it_goes_on_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said is the new reason; a run that knew more keeps its own; one of another process is left alone."""
    planned = Job(0, ("seed=1",), "000", "hash")
    Plan([], [planned]).write(tmp_path)
    folder, run = tmp_path / "000", RunFolder(tmp_path / "000")
    hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(folder)), launcher={})
    monkeypatch.setattr(job_room, "HydraConfig", SimpleNamespace(get=lambda: hydra))
    monkeypatch.setattr(job_room, "_clear_up", lambda: None)

    def fails(work: Callable[[object], int]) -> tuple[str, str]:
        assert run_job(lambda: composed("train"), work, lambda error: str(error) if isinstance(error, UserError) else None) != 0
        result = read_result(tmp_path, planned)
        return result.status, result.reason

    def refuses(config: object) -> int:
        raise UserError("its weights have changed")

    def breaks(config: object) -> int:
        run.mark("failed", error="ValueError: as the run says")
        (folder / "error.txt").write_text("as the run says", encoding="utf-8")
        raise ValueError("as the job says")

    leave_run(folder, composed("train"), 0.5, status="failed", error="KeyError: old")
    (folder / "error.txt").write_text("KeyError: old\n", encoding="utf-8")
    assert fails(refuses) == ("failed", "its weights have changed")
    leave_run(folder, composed("train"), 0.5, status="running")
    assert fails(refuses) == ("failed", "its weights have changed")
    assert fails(breaks) == ("failed", "ValueError: as the run says")
    leave_run(folder, composed("train"), 0.5, status="running")
    with FileLock(folder / ".lock"):
        assert fails(refuses) == ("running", "")

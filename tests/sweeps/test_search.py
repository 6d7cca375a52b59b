"""What Optuna is given, and what is made of what it proposes."""

import json
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from llmrl.errors import UserError
from llmrl.sweeps.search import SearchSettings, open_study, space_of
from tests.conftest import Command, refused


def space(*words: str):
    return space_of(OverridesParser.create().parse_overrides(list(words)))


def test_hydras_sweeps_are_optunas_distributions() -> None:
    found = space(
        "ppo.lr=tag(log,interval(1e-5,1e-3))", "reward=a,b", "ppo.epochs=range(1,5)", "ppo.clip_range=interval(0.1,0.4)",
        "trainer.steps=2", "ppo.gamma=range(0.,1.,.25)",
    )  # fmt: skip
    assert found.distributions == {
        "ppo.lr": FloatDistribution(1e-5, 1e-3, log=True), "reward": CategoricalDistribution(["a", "b"]),
        "ppo.epochs": IntDistribution(1, 4), "ppo.clip_range": FloatDistribution(0.1, 0.4),
        "ppo.gamma": FloatDistribution(0.0, 0.75, step=0.25),
    }  # fmt: skip
    assert found.fixed == ["trainer.steps=2"]


def test_what_can_not_be_searched() -> None:
    with pytest.raises(UserError, match="seed can't be searched"):
        space("seed=1,2", "reward=a,b")
    with pytest.raises(UserError, match="nothing is searched"):
        space("seed=1")
    with pytest.raises(UserError, match="ppo"):
        space("ppo.lr=tag(log,interval(-1,1))")
    with pytest.raises(UserError, match="objectives: 'rewards' is none; did you mean"):
        SearchSettings(objectives=["rewards"])


def test_a_study_of_another_space_is_refused(tmp_path: Path) -> None:
    settings = SearchSettings()
    open_study(tmp_path, space("ppo.lr=interval(1e-5,1e-3)"), settings)
    open_study(tmp_path, space("ppo.lr=interval(1e-5,1e-3)"), settings)
    with pytest.raises(UserError, match="another search space"):
        open_study(tmp_path, space("ppo.lr=interval(1e-5,1e-2)"), settings)
    with pytest.raises(UserError, match="another search space"):
        open_study(tmp_path, space("ppo.lr=interval(1e-5,1e-3)"), SearchSettings(objectives=["reward", "kl"]))
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="can't be used as a study"):
        open_study(tmp_path, space("ppo.lr=interval(1e-5,1e-3)"), settings)


@pytest.mark.slow
def test_a_search_runs_resumes_and_grows(command: Command, tmp_path: Path) -> None:
    """Two objectives; a proposal that no config can have is a failed trial, not the end; more trials later."""
    words = (
        "-m", "experiment=debug", "hydra/sweeper=optuna", "hydra.sweep.dir=sweep", "evaluation.examples=0",
        "ppo.lr=tag(log,interval(1e-5,1e-3))", "hydra.sweeper.objectives=[reward,kl]",
    )  # fmt: skip
    done = command("train", *words, "hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = tmp_path / "sweep"
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{sweep / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    told = json.loads((sweep / "ranking.json").read_text(encoding="utf-8"))["jobs"]
    assert [trial.values for trial in study.trials] == [[job["reward"]["mean"], job["kl"]] for job in told]
    assert [trial.params["ppo.lr"] for trial in study.trials] == [job["settings"]["ppo.lr"] for job in told]
    more = command("train", "sweep.resume=sweep", "hydra.sweeper.n_trials=3")
    assert more.returncode == 0, more.stdout + more.stderr
    assert more.stdout.count("\njob ") == 1
    assert len(study.get_trials()) == 3
    assert "ppo.lr" in refused(command("train", *words[:4], "hydra.sweep.dir=other", "ppo.lr=a,1e-5"))


@pytest.mark.slow
def test_trials_that_failed_are_run_once_more(command: Command, tmp_path: Path) -> None:
    """A study keeps its failures; what came of the second try is in it, too, and is not run a third time."""
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n\ndef f(sample):\n    if Path('broken').exists():\n        raise ValueError('broken')\n"
        "    return float(len(sample.response))\n", encoding="utf-8",
    )  # fmt: skip
    (tmp_path / "broken").touch()
    words = (
        "-m", "experiment=debug", "hydra/sweeper=optuna", "hydra.sweep.dir=sweep", "evaluation.examples=0", "reward=python",
        "reward.python.function=mine.py:f", "ppo.lr=tag(log,interval(1e-5,1e-3))",
    )  # fmt: skip
    done = command("train", *words, "hydra.sweeper.n_trials=1")
    assert done.returncode == 1, done.stdout + done.stderr
    (tmp_path / "broken").unlink()
    for _ in range(2):
        done = command("train", "sweep.resume=sweep", "hydra.sweeper.n_trials=2")
        assert done.returncode == 0, done.stdout + done.stderr
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'sweep' / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    failed, again, new = study.trials
    assert again.params == failed.params != new.params
    told = json.loads((tmp_path / "sweep" / "ranking.json").read_text(encoding="utf-8"))["jobs"]
    assert [job["status"] for job in told] == ["finished"] * 2
    assert again.values == [told[0]["reward"]["mean"]]

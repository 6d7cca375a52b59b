"""Plans: names that never collide, twins that run once, command lines that go on."""

import json
from pathlib import Path

import pytest

from llmrl.config import TrainConfig
from llmrl.errors import UserError
from llmrl.sweeps.plan import Plan, find_sweep, folder_name, make_jobs, read_plan, resumed_words, settings_of
from tests.test_config import composed


def compose(overrides) -> TrainConfig:
    return composed("train", *overrides)


def test_same_config_twice_is_one_job_and_trackers_do_not_tell_configs_apart() -> None:
    lists = [["seed=1", "tracker=none"], ["seed=1", "tracker=wandb"], ["seed=2", "tracker=none"]]
    jobs = make_jobs(lists, compose)
    assert [job.same_as for job in jobs] == [None, 0, None]
    assert len({job.folder for job in jobs}) == 3


def test_what_is_the_same_everywhere_names_no_folder() -> None:
    jobs = make_jobs([["experiment=debug", "seed=1"], ["experiment=debug", "seed=2"]], compose)
    assert [job.overrides for job in jobs] == [("seed=1",), ("seed=2",)]
    assert [job.folder for job in jobs] == ["000_seed-1", "001_seed-2"]


def test_names_are_fit_for_a_file_system() -> None:
    assert folder_name(7, ["model.name_or_path=/a/b c", "reward=[x,y]"]) == "007_model.name_or_path-a-b-c_reward-x-y"
    assert len(folder_name(7, ["x" * 500])) < 120
    assert len(folder_name(7, ["prompts.path=" + "文" * 200]).encode()) < 120


def test_values_are_numbers_where_they_can_be() -> None:
    assert settings_of(["ppo.lr=1e-5", "reward=no_repeat", "+a='b'"]) == {"ppo.lr": 1e-5, "reward": "no_repeat", "a": "b"}


def test_a_sweep_is_gone_on_with_by_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "it's"
    Plan(["-m", "seed=1,2", "hydra.sweep.dir=old", "hydra/launcher=joblib"], []).write(folder)
    words = resumed_words([f"sweep.resume={folder}", "hydra/launcher=basic"])
    assert words[:3] == ["-m", "seed=1,2", "hydra/launcher=basic"]
    assert words[3] == "hydra.sweep.dir='" + str(folder).replace("'", "\\'") + "'"
    assert find_sweep("latest").resolve() == folder
    assert resumed_words(["seed=1"]) == ["seed=1"]
    with pytest.raises(UserError, match="seed=3 can't be changed"):
        resumed_words([f"sweep.resume={folder}", "seed=3"])
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="go on with it from there"):
        resumed_words([f"sweep.resume={folder}"])


def test_a_plan_that_is_damaged_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", json.dumps({"words": [], "jobs": [{}], "llmrl": "0", "started_in": ""})):
        (tmp_path / "sweep.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="can't be read"):
            read_plan(tmp_path)

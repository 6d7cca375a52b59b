"""The command line that makes a run of a sweep again, and the recipes of sweeps."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.compose import SCHEMAS, prepare, to_config
from llmrl.config import CONF_DIR
from llmrl.sweep import command_of, config_flags
from llmrl.sweeps.plan import Plan
from llmrl.sweeps.search import ends_of, space_of

RECIPES = sorted(path.stem for path in (CONF_DIR / "sweep").glob("*.yaml"))


def made_again(folder: Path, begun_with: list[str], overrides: list[str], **facts: object) -> list[str]:
    """The words of `command_of` for a run with these overrides."""
    Plan(begun_with, []).write(folder)
    record = {"overrides": overrides, "threads": 4, "machine": {"processors": 4}, **facts}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return command_of(folder, folder).split()[3:]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_of_a_recipe_is_made_again_alone(tmp_path: Path, recipe: str) -> None:
    """Every recipe asks for a multirun, composes, and leaves off where the words say so."""
    words = made_again(tmp_path, [f"sweep={recipe}"], [f"sweep={recipe}", "seed=3", "sweep.resume=null"])
    assert words == [f"sweep={recipe}", "seed=3", "hydra.mode=RUN"]
    assert made_again(tmp_path, ["-m", f"sweep={recipe}"], [f"sweep={recipe}"])[-1] == "hydra.mode=RUN"
    prepare("train", SCHEMAS["train"])
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        raw = compose("train", words[:-1], return_hydra_config=True)
        assert raw.hydra.mode is RunMode.MULTIRUN
        assert compose("train", words, return_hydra_config=True).hydra.mode is RunMode.RUN
        assert to_config(compose("train", words), SCHEMAS["train"]).seed == 3


def test_a_run_is_made_again_with_its_threads_and_config_files(tmp_path: Path) -> None:
    begun = ["-m", "--config-dir", "my conf", "--config-name=mine", "-cp", "other", "seed=1,2"]
    assert config_flags(begun) == ["--config-dir", "my conf", "--config-name=mine", "-cp", "other"]
    assert made_again(tmp_path, ["-m", "seed=1,2"], ["seed=1"]) == ["seed=1"]
    assert made_again(tmp_path, ["-m", "seed=1,2"], ["seed=1"], threads=1) == ["seed=1", "trainer.threads=1"]
    own = ["seed=1", "trainer.threads=2"]
    assert made_again(tmp_path, ["-m", "seed=1,2"], own, threads=2) == own


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_sweeps_over_is_a_config(recipe: str) -> None:
    """The first and the last of its jobs; of a search, the two ends of every range."""
    prepare("train", SCHEMAS["train"])
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        params = compose("train", [f"sweep={recipe}"], return_hydra_config=True).hydra.sweeper.params
        parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
        if recipe == "search":
            ends = [ends_of(key, each) for key, each in space_of(parsed).distributions.items()]
            lists = [[each[place] for each in ends] for place in (0, -1)]
        else:
            lists = BasicSweeper.split_arguments(parsed, None)[0]
            assert len(lists) > 1
        for words in (lists[0], lists[-1]):
            to_config(compose("train", [f"sweep={recipe}", *words]), SCHEMAS["train"])

"""Every choice of every group composes; everything wrong is refused by name."""

from dataclasses import fields

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.compose import SCHEMAS, prepare, to_config
from llmrl.config import (
    CONF_DIR,
    EvaluationConfig,
    GRPOConfig,
    PPOConfig,
    PromptsConfig,
    RetrieverConfig,
    RLOOConfig,
    RolloutConfig,
    SFTConfig,
    TrackerConfig,
    TrainConfig,
    TrainerConfig,
    first_difference,
    option_keys,
    read_train_config,
)
from llmrl.errors import UserError
from llmrl.help import field_comments, groups, options
from llmrl.rewards.end_of_sentence import EndOfSentence
from llmrl.rewards.no_repeat import NoRepeat

NEEDS = {f"prompts={name}": ["prompts.path=p"] for name in ("text", "jsonl", "sentences")}
NEEDS |= {f"{name}=default": [f"trainer={name}"] for name in ("grpo", "rloo", "sft")}
CHOICES = [f"{group}={choice}" for group in groups() for choice in options(group)]


def composed(command: str, *overrides: str):
    prepare(command, SCHEMAS[command])
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return to_config(compose(command, list(overrides)), SCHEMAS[command])


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes(choice: str) -> None:
    extra = NEEDS.get(choice, [])
    if choice == "reward=python":
        extra = ["reward.python.function=math:sqrt"]
    group, _, name = choice.partition("=")
    if group == "retriever" and name != "none":
        extra = ["retriever.index=i"]
        assert composed("ask", choice, "index=i").retriever.name == name
    config = composed("train", choice, *extra)
    assert isinstance(config, TrainConfig)
    if group == "reward":
        assert list(config.reward) == [name]


def test_there_are_choices_to_test() -> None:
    assert {"model=tiny", "reward=no_repeat", "trainer=ppo", "retriever=none", "tracker=wandb"} <= set(CHOICES)


def test_yaml_values_equal_the_schema_defaults() -> None:
    """Two places for one default would drift apart."""
    config = composed("train")
    for section in (PPOConfig, RolloutConfig, EvaluationConfig, PromptsConfig, TrainerConfig, TrackerConfig, RetrieverConfig):
        name = section.__name__.removesuffix("Config").lower()
        assert getattr(config, name) == section(), name
    for section in (GRPOConfig, RLOOConfig, SFTConfig):
        name = section.__name__.removesuffix("Config").lower()
        assert getattr(composed("train", f"trainer={name}"), name) == section(), name
    assert config.reward["no_repeat"] == NoRepeat()
    assert composed("train", "reward=end_of_sentence").reward["end_of_sentence"] == EndOfSentence()


def test_rewards_add_up_in_a_list() -> None:
    config = composed("train", "reward=[no_repeat,end_of_sentence]", "reward.no_repeat.weight=0.5")
    assert list(config.reward) == ["no_repeat", "end_of_sentence"]
    assert config.reward["no_repeat"].weight == 0.5
    assert callable(config.reward["end_of_sentence"])


def test_a_saved_config_reads_back(tmp_path) -> None:
    config = composed("train", "reward=[no_repeat,end_of_sentence]", "ppo.lr=3e-5", "tracker=none")
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding="utf-8")
    assert read_train_config(path) == config


@pytest.mark.parametrize(
    "schema", [*SCHEMAS.values(), *[item.type for item in fields(TrainConfig) if hasattr(item.type, "__mro__")]]
)
def test_every_field_says_what_it_means(schema: type) -> None:
    if not hasattr(schema, "__dataclass_fields__"):
        return
    nested = {key.split(".")[0] for key in option_keys(schema) if "." in key}
    silent = {item.name for item in fields(schema)} - set(field_comments(schema)) - nested
    assert not silent, f"{schema.__name__}: {sorted(silent)} have no comment behind them"


@given(st.floats(max_value=0, allow_nan=False) | st.just(float("nan")) | st.just(float("inf")))
def test_a_learning_rate_is_above_zero_and_finite(lr: float) -> None:
    with pytest.raises(UserError, match=r"ppo\.lr="):
        PPOConfig(lr=lr)


@given(batch=st.integers(1, 64), minibatch=st.integers(1, 64))
def test_a_minibatch_divides_the_batch(batch: int, minibatch: int) -> None:
    if batch % minibatch == 0:
        assert PPOConfig(batch_size=batch, minibatch_size=minibatch).minibatch_size == minibatch
    else:
        with pytest.raises(UserError, match="does not divide") as refusal:
            PPOConfig(batch_size=batch, minibatch_size=minibatch)
        suggested = int(str(refusal.value).rpartition("=")[2])
        assert batch % suggested == 0
        assert suggested <= minibatch


def test_a_line_break_can_be_typed() -> None:
    """A shell hands over a backslash and an n."""
    config = composed("train", r'rollout.stop=["\n","END\t"]')
    assert config.rollout.stop == ["\n", "END\t"]


def test_what_may_differ_when_a_run_goes_on() -> None:
    """Nothing that training or its looks at held-out prompts depend on."""
    config = composed("train")
    for words in (["tracker=none"], ["evaluation.samples=64"], ["evaluation.enabled=false"], ["evaluation.examples=1"]):
        assert first_difference(config, composed("train", *words)) is None, words
    for word in ("evaluation.seed=5", "evaluation.batch_size=8", "ppo.lr=0.5", "reward.no_repeat.fill=0.5", "trainer.steps=3"):
        key, value = word.split("=")
        assert first_difference(config, composed("train", word))[::2] == (key, float(value)), word


SECTIONS = [PPOConfig, RolloutConfig, TrainerConfig, EvaluationConfig, GRPOConfig, RLOOConfig, SFTConfig, TrackerConfig]


@pytest.mark.parametrize(
    ("section", "name", "kind"),
    [
        (section, item.name, item.type)
        for section in SECTIONS
        for item in fields(section)
        if str(item.type).startswith(("int", "float", "<class 'int", "<class 'float"))
    ],
)  # fmt: skip
def test_no_number_may_be_negative_nor_no_number(section: type, name: str, kind: object) -> None:
    """Every number of every section has a range; the message names it."""
    for value in (-1, float("nan")) if "float" in str(kind) else (-1,):
        with pytest.raises(UserError, match=rf"\.{name}="):
            section(**{name: value})

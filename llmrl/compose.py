"""From words to a checked config: what is told to Hydra before it composes, and what becomes of what it composed."""

import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from llmrl.config import (
    CONF_DIR,
    AppConfig,
    AskConfig,
    CompareConfig,
    EvaluateRetrievalConfig,
    GenerateConfig,
    IngestConfig,
    TrainConfig,
    option_keys,
    optional_sections,
    section_type,
)
from llmrl.errors import UserError
from llmrl.explain import unknown_key
from llmrl.help import groups, options
from llmrl.registry import RETRIEVERS, REWARDS, TRAINERS, did_you_mean

Config = TypeVar("Config")

SCHEMAS: dict[str, type] = {
    "train": TrainConfig, "generate": GenerateConfig, "compare": CompareConfig, "ingest": IngestConfig,
    "retrieval.evaluate": EvaluateRetrievalConfig, "ask": AskConfig, "app": AppConfig,
}  # fmt: skip

HYDRA_FLAGS = {
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--shell-completion",
    "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
}  # fmt: skip


def prepare(command: str, schema: type) -> None:
    """Make schemas, plug-ins and resolvers known to Hydra, before a config is composed."""
    REWARDS.load_plugins()
    store = ConfigStore.instance().store
    store(name=f"{config_name(command)}_schema", node=schema, provider="llmrl")
    for registry in (TRAINERS, RETRIEVERS):  # one that a plug-in brought has no file, and can be chosen all the same
        for name in registry.summaries():
            if not (CONF_DIR / registry.kind / f"{name}.yaml").is_file():
                store(group=registry.kind, name=name, node={"name": name}, provider="llmrl")
    _register_short_id()


def _register_short_id() -> None:
    """Two runs may start within one second: four letters tell them apart."""
    short_id = uuid.uuid4().hex[:4]
    OmegaConf.register_new_resolver("llmrl.short_id", lambda: short_id, replace=True)


_register_short_id()  # at import, too: a worker process of a sweep composes without preparing


def config_name(command: str) -> str:
    return command.replace(".", "_")


def as_meant(word: str) -> str:
    """Words that Hydra would refuse though what is meant is plain; raises UserError for one it would take too badly.

    `model=some/folder` means that folder: a choice of the group holds no path separator and no .gguf. And parameters of a
    person's own function have no schema, so Hydra wants their first mention marked. An agent of W&B's sweeps writes null as
    None.
    """
    key, _, value = word.partition("=")
    if value == "None" and os.environ.get("WANDB_SWEEP_ID"):
        word, value = f"{key}=null", "null"
    if word.startswith("--") and key not in HYDRA_FLAGS:
        raise UserError(f"{key} is not a flag; options are written key=value, as in trainer.steps=10 (all of them: --help)")
    if value == "null" and key in groups():
        raise UserError(f"{key} can't be null{did_you_mean('', list(options(key)))}")
    if key.startswith("reward.python.parameters."):
        return f"++{word}"
    if key == "model" and value and ("," not in value) and (value.endswith(".gguf") or os.sep in value or Path(value).is_dir()):
        return word if value in options("model") else f"model.name_or_path={value}"
    return word


def to_config(raw: DictConfig, schema: type[Config], typed: Sequence[str] = ()) -> Config:
    """The dataclasses behind a composed config, checked. Raises UserError naming the key that is missing or wrong.

    `typed` are the words of the command line: what they say of a trainer that is not chosen is refused; what a recipe says of
    one is dropped.
    """
    _drop_other_trainers(raw, schema, typed)
    missing = sorted(OmegaConf.missing_keys(raw))
    if missing:
        raise UserError(f"{missing[0]} has no value: set it with {missing[0]}=...")
    _refuse_unknown(raw, schema, schema, "")
    config = OmegaConf.to_object(raw)
    if not isinstance(config, schema):
        raise TypeError(f"the composed config is a {type(config).__name__}, not a {schema.__name__}")
    return config


def _refuse_unknown(raw: DictConfig, section: type, schema: type, prefix: str) -> None:
    """Keys that were forced in with `+` would otherwise be carried along and mean nothing; a group set to null, likewise."""
    kinds = {item.name: item.type for item in fields(section)}
    for key in map(str, raw):
        full = f"{prefix}{key}"
        if key not in kinds:
            raise UserError(unknown_key(full, schema, ""))
        kind = None
        if full == "reward" and isinstance(raw.reward, DictConfig):
            for name in map(str, raw.reward):
                REWARDS.check(name)
                _refuse_unknown(raw.reward[name], REWARDS.get(name), schema, f"reward.{name}.")  # type: ignore[arg-type]
        elif full == "reward" or (kind := section_type(kinds[key])):
            if not isinstance(raw._get_node(key), DictConfig) or OmegaConf.is_missing(raw, key) or raw[key] is None:
                if full != "reward" and not isinstance(kinds[key], type):
                    continue  # the section of a trainer that is not chosen
                raise UserError(f"{full} can't be null{did_you_mean('', list(options(full)))}")
            _refuse_unknown(raw[key], kind, schema, f"{full}.")  # type: ignore[arg-type]


def _drop_other_trainers(raw: DictConfig, schema: type, typed: Sequence[str]) -> None:
    sections = optional_sections(schema)
    chosen = str(OmegaConf.select(raw, "trainer.name")) if sections else ""
    for name in sections:
        if name != chosen and raw.get(name) is not None:
            for word in typed:
                key = word.lstrip("+~").partition("=")[0].partition("@")[0]
                if key == name or key.startswith(f"{name}."):
                    raise UserError(_of_another_trainer(key, name, chosen, schema))
            raw[name] = None


def typed_of_another_trainer(schema: type) -> str | None:
    """OmegaConf asserts where a word sets an option of a section that is null: what it should have said."""
    words: dict[str, str] = {}
    for word in sys.argv[1:]:
        key, _, value = word.lstrip("+~").partition("=")
        words[key] = value
    chosen = words.get("trainer", words.get("trainer.name", "" if "experiment" in words else "ppo"))
    for key in words:
        name = key.partition(".")[0]
        if name in optional_sections(schema) and name != chosen:
            return _of_another_trainer(key, name, chosen, schema)
    return None


def _of_another_trainer(key: str, name: str, chosen: str, schema: type) -> str:
    own = [each for each in option_keys(schema) if each.startswith(f"{chosen}.")]
    twin = f"{chosen}.{key.partition('.')[2]}"
    if twin in own:
        instead = f"the one of trainer={chosen} is {twin}"
    elif own:
        instead = f"those of trainer={chosen} are {', '.join(own)}"
    else:
        instead = f"trainer={chosen} has none of its own" if chosen else "the run has another trainer"
    return f"{key} is an option of trainer={name}; {instead}"

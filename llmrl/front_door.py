"""What every command shares: compose the config, refuse what is wrong in one line, run, and leave with the right status."""

import gc
import os
import re
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llmrl.config import (
    CONF_DIR,
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
from llmrl.errors import INTERRUPTED, REFUSED, UserError, one_line
from llmrl.help import groups, options, show_help
from llmrl.registry import RETRIEVERS, REWARDS, TRAINERS, did_you_mean

Config = TypeVar("Config")

SCHEMAS: dict[str, type] = {
    "train": TrainConfig, "generate": GenerateConfig, "compare": CompareConfig, "ingest": IngestConfig,
    "retrieval.evaluate": EvaluateRetrievalConfig, "ask": AskConfig,
}  # fmt: skip


HYDRA_FLAGS = {
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--shell-completion",
    "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
}  # fmt: skip


def run(command: str, schema: type[Config], work: Callable[[Config], int | None]) -> int:
    """Compose the config of `command`, call `work` with it as a dataclass, and return the exit status.

    0 done; 2 what the person who typed it can mend, in one line; 130 interrupted; anything else raises.
    """
    gc.set_threshold(50_000)  # a fifth of the time to import torch and transformers would be looking for garbage
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us instead of being printed by Hydra
    statuses: list[int] = []

    def task(raw: DictConfig) -> None:
        """One job. What its author can mend is said at once, in one line, and the jobs after it go on."""
        try:
            statuses.append(work(to_config(raw, schema, HydraConfig.get().overrides.task)) or 0)
        except (UserError, OmegaConfBaseException) as error:
            if traceback_wanted:
                raise
            print(f"llmrl {command}: {explain(error, schema)}", file=sys.stderr)
            statuses.append(REFUSED)
        finally:
            _drop_empty_folder()
        if statuses[-1] == INTERRUPTED:
            raise KeyboardInterrupt("said")  # the person wants the sweep to stop, not this job alone

    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            show_help(command, schema, [word for word in sys.argv[1:] if not word.startswith("-")])
            return 0
        prepare(command, schema)
        sys.argv[1:] = [_as_meant(word) for word in sys.argv[1:]]
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=_config_name(command))(task)()
        return max(statuses, default=0)
    except KeyboardInterrupt as stop:
        if not stop.args:
            print("llmrl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (UserError, HydraException, OmegaConfBaseException, OSError, AssertionError) as error:
        message = _typed_of_another_trainer(schema) if isinstance(error, AssertionError) else explain(error, schema)
        if traceback_wanted or message is None:
            raise
        print(f"llmrl {command}: {message}", file=sys.stderr)
        return REFUSED
    finally:
        if not traceback_wanted:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _config_name(command: str) -> str:
    return command.replace(".", "_")


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


def _typed_of_another_trainer(schema: type) -> str | None:
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


def _refuse_unknown(raw: DictConfig, section: type, schema: type, prefix: str) -> None:
    """Keys that were forced in with `+` would otherwise be carried along and mean nothing; a group set to null, likewise."""
    kinds = {item.name: item.type for item in fields(section)}
    for key in map(str, raw):
        full = f"{prefix}{key}"
        if key not in kinds:
            raise UserError(_unknown_key(full, schema, ""))
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


def prepare(command: str, schema: type) -> None:
    """Make schemas, plug-ins and resolvers known to Hydra, before a config is composed."""
    REWARDS.load_plugins()
    store = ConfigStore.instance().store
    store(name=f"{_config_name(command)}_schema", node=schema, provider="llmrl")
    for registry in (TRAINERS, RETRIEVERS):  # one that a plug-in brought has no file, and can be chosen all the same
        for name in registry.summaries():
            if not (CONF_DIR / registry.kind / f"{name}.yaml").is_file():
                store(group=registry.kind, name=name, node={"name": name}, provider="llmrl")
    short_id = uuid.uuid4().hex[:4]  # two runs may start within one second
    OmegaConf.register_new_resolver("llmrl.short_id", lambda: short_id, replace=True)
    OmegaConf.register_new_resolver("llmrl.job_name", _job_name, replace=True)


def _job_name(overrides: str) -> str:
    """A folder name from a sweep job's overrides: no separators, not too long."""
    return re.sub(r"[^\w.+-]+", "-", str(overrides).replace(",", "_")).strip("-")[:100] or "job"


def _as_meant(word: str) -> str:
    """Words that Hydra would refuse though what is meant is plain; raises UserError for one it would take too badly.

    `model=some/folder` means that folder: a choice of the group holds no path separator and no .gguf. And parameters of a
    person's own function have no schema, so Hydra wants their first mention marked.
    """
    key, _, value = word.partition("=")
    if word.startswith("--") and key not in HYDRA_FLAGS:
        raise UserError(f"{key} is not a flag; options are written key=value, as in trainer.steps=10 (all of them: --help)")
    if value == "null" and key in groups():
        raise UserError(f"{key} can't be null{did_you_mean('', list(options(key)))}")
    if key.startswith("reward.python.parameters."):
        return f"++{word}"
    if key == "model" and value and ("," not in value) and (value.endswith(".gguf") or os.sep in value or Path(value).is_dir()):
        return word if value in options("model") else f"model.name_or_path={value}"
    return word


def _drop_empty_folder() -> None:
    """Remove the output folder Hydra made if nothing was put into it: a refused run leaves no folder that looks like one."""
    if HydraConfig.initialized():
        folder = Path(HydraConfig.get().runtime.output_dir)
        if folder.is_dir() and folder != Path.cwd() and not any(folder.iterdir()):
            folder.rmdir()


def explain(error: BaseException, schema: type) -> str | None:
    """One line for the person who typed the command, or None if the error is not theirs."""
    if isinstance(error, UserError):
        return one_line(error)
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return f"{error.strerror or error}: {error.filename}" if error.filename else None
    text = str(error)
    chain = " ".join(str(each) for each in _causes(error))
    if found := re.search(r"Could not (?:find|load) '([\w/@.-]+)/([^']*)'", text):
        group, choice = found.groups()
        extra = "; any other model: model.name_or_path=<hub name, folder or .gguf file>" if group == "model" else ""
        return f"{group}={choice} is not a choice{did_you_mean(choice, list(options(group)))}{extra}"
    if found := re.search(r"Could not override '([^']+)'", text):
        if found.group(1) in optional_sections(schema):
            return f"{found.group(1)} goes with trainer={found.group(1)}, which is not the one chosen"
        return _unknown_key(found.group(1), schema, chain)
    if found := re.search(r"full_key: ([\w.\[\]]+)", chain):
        return _bad_value(found.group(1), chain)
    return one_line(text)


def _causes(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_causes(error.__cause__ or error.__context__)]


def _known_keys(schema: type) -> list[str]:
    keys = set(option_keys(schema))
    for name in REWARDS:
        keys |= {f"reward.{name}", *option_keys(REWARDS.get(name), f"reward.{name}.")}  # type: ignore[arg-type]
    return sorted(keys)


def _unknown_key(key: str, schema: type, chain: str) -> str:
    known = _known_keys(schema)
    if key in known:
        if key.startswith("reward."):
            name = key.split(".")[1]
            return f"{key} is an option of a reward that is not chosen: add reward={name}"
        return f"{key}: {one_line(chain.splitlines()[-1])}"
    last = key.rpartition(".")[2]
    trainers = {f"{name}." for name in optional_sections(schema)}
    moved = [each for each in known if each.rpartition(".")[2] == last and not each.startswith(tuple(trainers))]
    if not moved and not key.startswith(tuple(trainers)) and f"ppo.{last}" in known:
        moved = [f"ppo.{last}"]
    if moved:
        return f"{key} is not an option; did you mean {moved[0]!r}?"
    group = [each for each in known if each.rpartition(".")[0] == key.rpartition(".")[0]]
    near = did_you_mean(key, group)
    return f"{key} is not an option{near if '?' in near else did_you_mean(key, known)}"


def _bad_value(key: str, chain: str) -> str:
    if "is not Optional" in chain:
        return f"{key} can't be null"
    if "is not a ListConfig" in chain:
        return f"{key} has the wrong type: it must be a list, {key}=[a,b]"
    if found := re.search(r"Key '([^']+)' (?:is )?not in '(\w+)'", chain):
        return f"{key} is not an option: {found.group(2)} has none of that name"
    if found := re.search(r"Invalid value '([^']+)', expected one of \[([^\]]+)\]", chain):
        return f"{key}={found.group(1)} is not a choice. Known: {found.group(2)}"
    if found := re.search(
        r"Value '([^']*)'(?: of type '\w+')? "
        r"(?:could not be converted to|is not a valid|is incompatible with type hint '?) ?(\S+)",
        chain,
    ):
        return f"{key}={found.group(1)} has the wrong type: it must be {_type_name(found.group(2))}"
    return f"{key}: {one_line(chain.splitlines()[0])}"


def _type_name(word: str) -> str:
    names = {
        "float": "a number",
        "integer": "a whole number",
        "int": "a whole number",
        "bool": "true or false",
        "boolean": "true or false",
    }
    return names.get(word.strip("'.,").lower(), word.strip("'.,"))

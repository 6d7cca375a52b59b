"""Errors of Hydra and OmegaConf in one line for the person who typed the command."""

import re

from hydra.errors import HydraException

from llmrl.config import option_keys, optional_sections
from llmrl.errors import UserError, one_line
from llmrl.help import options
from llmrl.registry import REWARDS, did_you_mean


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
        return unknown_key(found.group(1), schema, chain)
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


def unknown_key(key: str, schema: type, chain: str) -> str:
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

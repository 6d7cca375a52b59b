import pytest

from llmrl.errors import UserError
from llmrl.registry import Registry, did_you_mean


def test_a_lazy_target_is_imported_on_first_use() -> None:
    registry: Registry = Registry("thing", "things")
    registry.register("decoder", "json:JSONDecoder", "reads JSON")
    import json

    assert registry.get("decoder") is json.JSONDecoder


def test_a_name_is_taken_once() -> None:
    registry: Registry = Registry("thing", "things")
    registry.register("one", int, "")
    registry.register("one", int, "")  # the same again, as when a module is imported under two names
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("one", float, "")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    registry: Registry = Registry("reward", "nothing")
    registry.register("no_repeat", int, "")
    with pytest.raises(UserError, match="there is no reward 'no_repaet'; did you mean 'no_repeat'"):
        registry.get("no_repaet")


def test_few_names_are_listed() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == ". Known: a, b"
    assert did_you_mean("zzz", []) == "."

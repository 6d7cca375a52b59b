"""What is refused before anything is computed."""

import pytest

from llmrl.config import AppConfig
from llmrl.errors import UserError
from llmrl.serving.limits import Pace, Paces, checked_lines, checked_text


def test_texts_are_checked() -> None:
    assert checked_text("  a word ", 10, "prompt") == "a word"
    for text, why in (("", "empty"), ("  \n\t ", "empty"), ("a" * 1_000_000, "1,000,000 characters"), ("\ud800", "half of a")):
        with pytest.raises(UserError, match=why):
            checked_text(text, 4000, "prompt")


def test_lines_are_prompts() -> None:
    config = AppConfig(max_prompts=2)
    assert checked_lines("one\n\n  two  \n", config, "prompt") == ["one", "two"]
    with pytest.raises(UserError, match="3 prompts; 2 are the most"):
        checked_lines("a\nb\nc", config, "prompt")
    with pytest.raises(UserError, match="empty"):
        checked_lines("\n \n", config, "prompt")


def test_requests_a_minute() -> None:
    now = [0.0]
    pace = Pace(2, clock=lambda: now[0])
    pace.step()
    now[0] = 30.0
    pace.step()
    with pytest.raises(UserError, match="2 requests a minute are the most here; the next in 30 s"):
        pace.step()
    now[0] = 60.0
    pace.step()
    with pytest.raises(UserError):
        pace.step()


def test_an_address_has_one_pace_whoever_asks_from_it() -> None:
    paces = Paces(1, addresses=2)
    paces.of("10.0.0.1").step()
    paces.of("10.0.0.2").step()
    with pytest.raises(UserError):
        paces.of("10.0.0.1").step()
    paces.of("10.0.0.3").step()  # the address that was not heard of for longest is forgotten
    with pytest.raises(UserError):
        paces.of("10.0.0.1").step()
    paces.of("10.0.0.2").step()

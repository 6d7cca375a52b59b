"""The formula by hand, and every way to cheat it that we could think of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrl.errors import UserError
from llmrl.rewards import Sample
from llmrl.rewards.no_repeat import NoRepeat, repeated_share, stutter, words_of

GOOD = "The sun rose over quiet hills while a farmer led his two brown horses down to drink from the cold river."


def judge(response: str, prompt: str = "One morning", budget: int = 40, **options: float) -> float:
    return NoRepeat(**options)([Sample(prompt=prompt, response=response, max_new_tokens=budget)])[0]  # type: ignore[arg-type]


def test_fresh_text_that_fills_its_budget_gets_the_most() -> None:
    assert judge(GOOD) == 1.0


def test_the_formula_by_hand() -> None:
    # words a b c a b d: 2-grams ab bc ca ab bd, one of five repeated; no 3- or 4-gram is; 4 distinct words of 0.4 x 10 wanted
    expected = 2 * 1.0 * (1 - 3 * (2 * (1 / 5) / 9)) - 1
    assert judge("a b c a b d", prompt="", budget=10) == pytest.approx(expected)


@pytest.mark.parametrize(
    "cheat",
    [
        "", " ", ".", "!!!", "Yes.", "...................................", "Ok ok.",
        "very " * 30, "Very, very; VERY very - very very very very very", "la la la la la la la la la la la la la la la la",
        "It is so. It is so. It is so. It is so. It is so. It is so.",
        "it was a day, it was a night, it was a day, it was a night, it was a day, it was a night",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22", "1. 2. 3. 4,000 5.5 6", "@ # $ % ^ & * ( ) ~ + = { } [ ]",
        "soooooooooooo goooooooood yeeeeeeeees niiiiiice", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "😀 😁 😂 🤣 😃 😄 😅 😆",
    ],
)  # fmt: skip
def test_cheats_get_less_than_nothing(cheat: str) -> None:
    assert judge(cheat) < 0


def test_echoing_the_prompt_is_repeating() -> None:
    prompt = "The old clockmaker opened the heavy door and looked into the dark and silent street"
    assert judge(prompt, prompt) < -0.9
    assert judge(prompt, prompt, prompt_counts=False) > 0.4


def test_saying_more_fresh_words_is_never_worse() -> None:
    words = GOOD.split()
    scores = [judge(" ".join(words[: n + 1])) for n in range(len(words))]
    assert scores == sorted(scores)
    assert scores[0] < -0.8


@given(st.text(), st.text(), st.integers(1, 200))
def test_stays_in_its_range(prompt: str, response: str, budget: int) -> None:
    assert -1 <= judge(response, prompt, budget) <= 1


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=12))
def test_saying_it_all_again_does_not_help(words: list[str]) -> None:
    text = " ".join(words)
    assert judge(f"{text} {text}", prompt="", budget=20) <= judge(text, prompt="", budget=20) + 1e-9


def test_words_are_folded() -> None:
    assert words_of("Don’t STOP, 3.14 or 42!") == ["don't", "stop", "0", "or", "0"]
    assert repeated_share(["a", "b", "a", "b"], 2) == pytest.approx(1 / 3)
    assert repeated_share(["a"], 2) == 0
    assert stutter(["a", "a", "b"], "a a b") == pytest.approx(1 / 3)


@pytest.mark.parametrize("options", [{"strength": 0.0}, {"fill": 0.0}, {"fill": 1.5}, {"weight": float("nan")}])
def test_parameters_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"strength|fill|weight"):
        NoRepeat(**options)  # type: ignore[arg-type]

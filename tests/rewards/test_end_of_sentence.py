"""Every rule by a text worked out by hand; budget 10 words unless it says otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrl.errors import UserError
from llmrl.rewards import Sample
from llmrl.rewards.end_of_sentence import EndOfSentence, Scope, end_of_sentence

FIVE = "one two three four five"  # half the budget: +2.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", -10), ("  \n\n ", -10),
        (f"{FIVE}.", 12.5), (f"{FIVE}!", 12.5), (f"{FIVE}?  ", 12.5),
        (FIVE, -5 + 2.5),
        (f"{FIVE}.\n", 12.5 - 2), (f"{FIVE}.\n \n", 12.5 - 4), (f"{FIVE}." + "\n" * 15, 12.5 - 20),
        (f"{FIVE},", -5 - 5 + 2.5), (f"{FIVE}”", -10 + 2.5), (f"{FIVE}\ufffd", -10 + 2.5), (f"{FIVE} _", -10 + 3),
        (f"{FIVE} six seven eight nine ten.", 15), (f"{FIVE} six seven eight nine ten eleven twelve.", 15),
        ("one two.", 10 + 1 - 3), ("one.", 10 + 0.5 - 3),
        (" ".join(f"w{i}" for i in range(15)) + ".", 15), (" ".join(f"w{i}" for i in range(16)) + ".", 12),
        # go go go go: two stutters from the third on; (go go) three times: one beyond the second; (go go go) twice
        ("go go go go x.", 10 + 2.5 - 2 - 1),
        ("GO go Go x y.", 10 + 2.5 - 1),
        # the full stop belongs to the last word, so (a b) stands twice only; without it, three times
        ("a b a b a b.", 10 + 3), ("a b a b a b", -5 + 3 - 1),
        ("a b x a b y a b z.", 10 + 4.5 - 1),
        ("a b c x a b c y a b c z", -5 + 5 - 1 - 1 - 1.5),
        (f"one two three {'x' * 21}", -5 + 2 - 3), (f"one two three {'x' * 20}", -5 + 2),
        ("Click here and SIGN  up now.", 10 + 3 - 10), ("design upon design and newsletters", -5 + 2.5),
    ],
)  # fmt: skip
def test_by_hand(text: str, expected: float) -> None:
    assert end_of_sentence(text, budget=10) == pytest.approx(expected)


@given(st.text(), st.integers(1, 100))
def test_stays_in_its_range(text: str, budget: int) -> None:
    assert -20 <= end_of_sentence(text, budget) <= 20


@given(st.text(alphabet="aA bB.!\n"), st.integers(1, 20))
def test_case_does_not_matter(text: str, budget: int) -> None:
    assert end_of_sentence(text, budget) == end_of_sentence(text.swapcase(), budget)


def test_the_budget_is_what_may_be_sampled_unless_it_is_set() -> None:
    sample = Sample(prompt="", response=f"{FIVE}.", max_new_tokens=5)
    assert EndOfSentence()([sample]) == [15]
    assert EndOfSentence(budget=10)([sample]) == [12.5]


def test_the_prompt_can_count() -> None:
    sample = Sample(prompt="one two three four", response=" five.", max_new_tokens=10)
    assert EndOfSentence()([sample]) == [10 + 0.5 - 3]
    assert EndOfSentence(scope=Scope.prompt_and_response)([sample]) == [12.5]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"reward\.end_of_sentence\.budget=0"):
        EndOfSentence(budget=0)

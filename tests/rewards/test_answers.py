"""Rewards for answers, worked out by hand; and each obvious way to cheat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrl.errors import UserError
from llmrl.rewards import Sample, score
from llmrl.rewards.answers import Abstain, Answer, Cites, ContextGain, Grounded, answer_f1, longest_run, sources_of

CONTEXT = (
    "[1] Tides\nThe Moon pulls the sea towards it, and water heaps up below the Moon.\n\n"
    "[2] Bread\nYeast turns sugar into gas, and the gas makes dough rise."
)
QUESTION = "What makes dough rise?"


def sample(response: str, answer: str | None = "The gas that yeast makes", context: str | None = CONTEXT) -> Sample:
    return Sample(prompt=f"Answer.\n\n{context}\n\n{QUESTION}", response=response, context=context, answer=answer)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        # content words of the reference: gas, yeast, makes
        ("Gas from yeast.", 2 * 2 / (2 + 3)),
        ("The gas that yeast makes", 1),
        ("gas gas gas", 2 * 1 / (3 + 3)),
        ("The sea.", 0),
        ("", 0),
        ("I don't know.", 0),
    ],
)
def test_answer(response: str, expected: float) -> None:
    assert Answer()([sample(response)]) == [pytest.approx(expected)]


def test_answer_where_there_is_none() -> None:
    given_up = "I don't know."
    assert Answer()([sample("I do not know that.", given_up), sample("Yeast.", given_up)]) == [1, 0]
    with pytest.raises(Exception, match="reward 'answer' raised ValueError: the prompt has no reference answer"):
        score({"answer": Answer()}, [sample("Yeast.", None)])


@given(st.text(alphabet="ab c."), st.text(alphabet="ab c."))
def test_f1_is_symmetric_and_between_0_and_1(one: str, other: str) -> None:
    assert answer_f1(one, other) == answer_f1(other, one)
    assert 0 <= answer_f1(one, other) <= 1


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Yeast turns sugar into gas.", 1),  # words and pairs all stand there
        # yeast, bubbles: one of two, and the pair is nowhere
        ("Yeast bubbles.", (0.5 + 0) / 2),
        ("What makes dough rise?", 0),  # the question again
        ("I don't know.", 0),
        ("", 0),
        ("The.", 0),
    ],
)
def test_grounded(response: str, expected: float) -> None:
    assert Grounded()([sample(response)]) == [pytest.approx(expected)]


def test_copying_costs() -> None:
    copied = "The Moon pulls the sea towards it, and water heaps up below the Moon."  # 14 words as they stand there
    assert Grounded(copy_cap=12)([sample(copied)]) == [pytest.approx(1 - 2 / 14)]
    assert Grounded(copy_cap=20)([sample(copied)]) == [1]
    whole = CONTEXT.replace("[1] ", "").replace("[2] ", "")
    assert Grounded()([sample(whole)])[0] < Grounded()([sample("Yeast turns sugar into gas.")])[0]


def test_ranges_are_checked() -> None:
    with pytest.raises(UserError, match=r"reward\.grounded\.copy_cap=0 is out of range"):
        Grounded(copy_cap=0)


@pytest.mark.parametrize(
    ("words", "within", "expected"),
    [("a b c d", "x b c y", 2), ("a b", "c d", 0), ("", "a", 0), ("a a b", "a b a a b", 3), ("a b c", "a x b x c", 1)],
)
def test_longest_run(words: str, within: str, expected: int) -> None:
    assert longest_run(words.split(), within.split()) == expected


def test_sources_by_their_numbers() -> None:
    assert sources_of(CONTEXT) == {1: CONTEXT.split("\n\n")[0][4:], 2: CONTEXT.split("\n\n")[1][4:]}
    assert sources_of("no numbers") == {}


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Yeast makes gas [2].", 1),
        ("Yeast makes gas. [2]", 1),
        ("Yeast makes gas [1].", 0),  # it exists, and says nothing of it
        ("Yeast makes gas.", 0),
        ("Yeast makes gas [7].", -1),
        ("Yeast makes gas [2]. The Moon pulls the sea [1].", 1),
        ("Yeast makes gas [2]. The Moon is cheese [1].", (1 + 0.5) / 2),
        ("Yeast makes gas [2]. It is so.", 0.5),
        ("I don't know [9].", 0),
        ("[2]", 0),
        ("", 0),
    ],
)
def test_cites(response: str, expected: float) -> None:
    assert Cites()([sample(response)]) == [pytest.approx(expected)]


def test_abstain() -> None:
    known, unknown = "Gas.", "I don't know."
    samples = [sample("Gas.", known), sample("I do not know", known), sample("Gas.", unknown), sample("I don’t know.", unknown)]
    assert Abstain()(samples) == [1, 0, 0, 1]


OTHER = "[1] Rain\nWarm air holds more water, and drops form on dust when it cools."


def test_gain_of_the_context() -> None:
    """What the own sources support, and the others do not: 1 - 0. What both support equally gains nothing."""
    asked = "Why?"
    own = Sample(f"{CONTEXT}\n\n{asked}", "Yeast turns sugar into gas.", context=CONTEXT)
    general = Sample(f"{OTHER}\n\n{asked}", "Water.", context=OTHER)  # of the sea here, of the air there
    assert ContextGain()([own, general]) == [pytest.approx(1), pytest.approx(0)]
    swapped = Sample(own.prompt.replace(CONTEXT, OTHER), own.response, context=OTHER)
    expected = Grounded()([own])[0] - Grounded()([swapped])[0]
    assert ContextGain()([own, own, general])[0] == pytest.approx(expected)
    wrong = Sample(f"{OTHER}\n\n{asked}", "Yeast turns sugar into gas.", context=OTHER)
    assert ContextGain()([wrong, own]) == [pytest.approx(-1), pytest.approx(1)]


def test_gain_without_anything_to_compare_with() -> None:
    own = Sample(f"{CONTEXT}\n\nWhy?", "Yeast turns sugar into gas.", context=CONTEXT)
    bare = Sample("Why?", "Yeast turns sugar into gas.")
    assert ContextGain()([own]) == [0]
    assert ContextGain()([own, own]) == [0, 0]
    assert ContextGain()([bare, own]) == [0, 0]
    assert ContextGain()([]) == []


def test_gain_of_another_reward() -> None:
    one = Sample(f"{CONTEXT}\n\nWhy?", "Yeast turns sugar into gas [2].", context=CONTEXT)
    other = Sample(f"{OTHER}\n\nWhy?", "Drops form on dust [1].", context=OTHER)
    assert ContextGain(of="cites")([one, other]) == [2, 1]  # 1 - -1: there is no second source; 1 - 0
    with pytest.raises(UserError, match="it must be another reward"):
        ContextGain(of="context_gain")
    with pytest.raises(UserError, match="there is no reward 'ground'"):
        ContextGain(of="ground")

"""Rewards for answers, worked out by hand; and each obvious way to cheat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrl.errors import UserError
from llmrl.rewards import Sample, score
from llmrl.rewards.answers import Abstain, Answer, Cites, ContextGain, Grounded, answer_f1, sources_of, taken_over
from llmrl.rewards.grounding import abstains

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
        # yeast of yeast, bubbles, quietly; the pairs are nowhere
        ("Yeast bubbles quietly.", (1 / 3 + 0) / 2),
        ("Yeast turns.", 0),  # too few words to be an answer
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
    [
        ("a b c d", "x b c y", 2), ("a b", "c d", 0), ("", "a", 0), ("a a b", "a b a a b", 3), ("a b c", "a x b x c", 0),
        ("a b x c d", "a b c d", 4), ("a b c d", "c d a b", 4),
    ],
)  # fmt: skip
def test_words_taken_over(words: str, within: str, expected: int) -> None:
    """In runs of two or more."""
    assert taken_over(words.split(), within.split(), run=1) == expected


def test_breaking_a_copy_up_does_not_make_it_ones_own() -> None:
    first, second = "The Moon pulls the sea towards it", "and water heaps up below the Moon"  # 7 words each
    copied = f"{first}, so, {second}; hence yeast turns sugar into gas, and the gas makes dough rise"  # and 11
    assert Grounded(copy_cap=12)([sample(copied)])[0] < 1 - 13 / 27
    assert Grounded(copy_cap=12)([sample(copied.upper().replace(",", ";"))]) == Grounded(copy_cap=12)([sample(copied)])


@pytest.mark.parametrize("response", ["Yeast [2]", "Yeast turns sugar into gas [2].", "What makes dough rise? [2]"])
def test_making_things_up_never_beats_not_knowing(response: str) -> None:
    """Where the reference does not know, the mix of the README pays nothing for sounding sure."""
    rewards = {"answer": Answer(), "grounded": Grounded(), "cites": Cites()}
    scores = score(rewards, [sample("I don't know.", "I don't know."), sample(response, "I don't know.")]).total
    assert scores[0] == 1
    assert scores[1] <= 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't know.", True), ("I do not know that.", True), ("Sorry, but I can't say.", True),
        ("I'm sorry, I don’t know", True), ("The sources do not say.", True), ("I don't know [1].", True),
        ("I don't know. The context does not mention it.", True), ("Yeast eats rocks. I don't know.", False),
        ("I don't know. It is yeast.", False), ("", False), ("Yeast.", False),
        ("An archive, where the source is a directory and does not contain a main file.", False),
        ("If the source does not contain a file, it is made.", False),
    ],
)  # fmt: skip
def test_what_is_an_abstention(text: str, expected: bool) -> None:
    assert abstains(text) == expected


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
        ("What makes dough rise? [2]", 0),  # the question, cited
        ("Yeast makes gas [1] [2].", 0.5),  # half of what it cites supports it
        ('Yeast "turns sugar into gas" [2].', 1),
        ('Yeast "turns gas into sugar" [2].', 0),  # nobody said so
        ("Yeast “turns sugar into gas” [1].", 0),
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
    general = Sample(f"{OTHER}\n\n{asked}", "Some more water is on the sea.", context=OTHER)  # a word of each
    assert ContextGain(of="grounded")([own, general])[0] == pytest.approx(1)
    there = Grounded()([Sample(f"{CONTEXT}\n\n{asked}", general.response, context=CONTEXT)])[0]
    assert ContextGain()([own, general])[1] == pytest.approx(Grounded()([general])[0] - there)
    swapped = Sample(own.prompt.replace(CONTEXT, OTHER), own.response, context=OTHER)
    expected = Grounded()([own])[0] - Grounded()([swapped])[0]
    assert ContextGain()([own, own, general])[0] == pytest.approx(expected)
    wrong = Sample(f"{OTHER}\n\n{asked}", "Yeast turns sugar into gas.", context=OTHER)
    assert ContextGain()([wrong, own]) == [pytest.approx(-1), pytest.approx(1)]


def test_what_both_contexts_support_gains_nothing() -> None:
    """The other context stands in the prompt, too: else the own one would count as the question, whose words earn nothing."""
    gas, bread = "[1] Yeast turns sugar into gas.", "[1] Yeast turns sugar into bread."
    samples = [Sample(f"{context}\n\nWhy?", "Yeast turns sugar.", context=context) for context in (gas, bread)]
    assert Grounded()(samples) == [1, 1]
    assert ContextGain()(samples) == [0, 0]


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

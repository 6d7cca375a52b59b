"""The reward of the system this project grew from: text that ends as a sentence should."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from llmrl.errors import UserError
from llmrl.rewards.base import Reward, Sample, reward


class Scope(Enum):
    """Which text is judged."""

    response = "response"
    prompt_and_response = "prompt_and_response"


ENDINGS = ".!?"
DANGLING = "'’\"”›;:-_),\ufffd"
ADVERTISING = ("sign up", "click here", "subscribe", "follow us", "buy now", "visit our", "newsletter")
LOWEST, HIGHEST = -20.0, 20.0


@reward("end_of_sentence")
@dataclass
class EndOfSentence(Reward):
    """Rewards text that ends with . ! or ?, fills its budget, and neither stutters nor advertises.

    The sum, clipped to [-20, 20], of: +10 if the last character that is not white space is one of `. ! ?`, else -5; -2 for each
    trailing newline, at most -20; -5 more for a dangling last character such as a comma or a quotation mark; +5 x min(words /
    budget, 1); -3 for fewer than 3 words; -3 for more than 1.5 x budget words; -1 for each word equal to the one before it,
    from the third in a row; -0.5 n for each time a 2-gram or 3-gram is seen beyond the second; -3 for a last word longer than
    20 characters; -5 for each advertising phrase that occurs. Blank text is -10. Case does not matter. Words are what white
    space separates.
    """

    scope: Scope = Scope.response  # response, or prompt_and_response
    budget: int | None = None  # words wanted; null: as many as new tokens are allowed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and self.budget < 1:
            raise UserError(f"reward.end_of_sentence.budget={self.budget} is out of range: it must be at least 1, or null")

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> float:
        text = sample.response if self.scope is Scope.response else sample.prompt + sample.response
        return end_of_sentence(text, self.budget or sample.max_new_tokens)


def end_of_sentence(text: str, budget: int) -> float:
    """Score of one text against a budget of words; see `EndOfSentence`."""
    bare = text.strip()
    if not bare:
        return -10.0
    words = bare.lower().split()
    score = 10.0 if bare[-1] in ENDINGS else -5.0
    tail = text[len(text.rstrip()) :]
    score -= min(2.0 * tail.count("\n"), 20.0)
    score -= 5.0 * (bare[-1] in DANGLING)
    score += 5.0 * min(len(words) / budget, 1.0)
    score -= 3.0 * (len(words) < 3)
    score -= 3.0 * (len(words) > 1.5 * budget)
    score -= _stutters(words)
    for n in (2, 3):
        grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        score -= 0.5 * n * sum(count - 2 for count in grams.values() if count > 2)
    score -= 3.0 * (len(words[-1]) > 20)
    flat = re.sub(r"\s+", " ", bare.lower())
    score -= 5.0 * sum(bool(re.search(rf"\b{phrase}\b", flat)) for phrase in ADVERTISING)
    return max(LOWEST, min(HIGHEST, score))


def _stutters(words: Sequence[str]) -> int:
    """How many words equal the one before them, counted from the third of a run."""
    return sum(a == b == c for a, b, c in zip(words, words[1:], words[2:], strict=False))

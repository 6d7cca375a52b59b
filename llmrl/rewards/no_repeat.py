"""A reward against saying things twice."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llmrl.errors import UserError
from llmrl.rewards.base import Reward, Sample, reward

NGRAMS = (2, 3, 4)
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
_DRAWN_OUT = re.compile(r"(\S)\1{3,}")


@reward("no_repeat")
@dataclass
class NoRepeat(Reward):
    """Punishes n-grams said before and stuttering; saying almost nothing does not win.

    With w the words of a response, lower-cased and without punctuation, every number being the same word:

        r_n = share of the response's n-grams that stand earlier in it (or in the prompt, for `prompt_counts`), n = 2, 3, 4
        s   = share of words equal to the word before them, plus drawn-out runs (four or more of one character) per word
        repetition = min(1, strength x ((2 r_2 + 3 r_3 + 4 r_4) / 9 + s))
        length     = min(1, distinct words / (fill x new tokens allowed))
        reward     = 2 x length x (1 - repetition) - 1, in [-1, 1]

    An n-gram counts as repeated only where all its words are the response's own. Each obvious way to cheat meets one of these:
    short or empty answers, filler words and symbols fall to `length`, which counts distinct words; case and punctuation are
    folded away; counting upwards is one word; echoing the prompt is a repetition.
    """

    strength: float = 3.0  # how steeply repetition is punished, above 0
    fill: float = 0.4  # distinct words wanted per new token allowed, in (0, 1]
    prompt_counts: bool = True  # an n-gram of the prompt said again is repeated, too

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength > 0:
            raise UserError(f"reward.no_repeat.strength={self.strength} is out of range: it must be above 0")
        if not 0 < self.fill <= 1:
            raise UserError(f"reward.no_repeat.fill={self.fill} is out of range: it must be above 0 and at most 1")

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> float:
        response = words_of(sample.response)
        if not response:
            return -1.0
        prompt = words_of(sample.prompt) if self.prompt_counts else []
        weighted = sum(n * repeated_share(response, n, prompt) for n in NGRAMS) / sum(NGRAMS)
        repetition = min(1.0, self.strength * (weighted + stutter(response, sample.response)))
        length = min(1.0, len(set(response)) / (self.fill * sample.max_new_tokens))
        return 2.0 * length * (1.0 - repetition) - 1.0


def words_of(text: str) -> list[str]:
    """Words in lower case without punctuation; every number becomes `0`."""
    return ["0" if word[0].isdigit() else word.replace("’", "'") for word in _WORD.findall(text.lower())]


def repeated_share(response: Sequence[str], n: int, prompt: Sequence[str] = ()) -> float:
    """Share of the response's n-grams that occurred before, in the prompt or earlier in the response; 0 if it has none."""
    seen = {tuple(prompt[i : i + n]) for i in range(len(prompt) - n + 1)}
    repeated = 0
    count = len(response) - n + 1
    for i in range(count):
        gram = tuple(response[i : i + n])
        repeated += gram in seen
        seen.add(gram)
    return repeated / count if count > 0 else 0.0


def stutter(words: Sequence[str], text: str) -> float:
    """Words equal to their predecessor, and runs of four or more of one character, per word; at most 1."""
    doubled = sum(a == b for a, b in pairwise(words))
    return min(1.0, (doubled + len(_DRAWN_OUT.findall(text))) / len(words))

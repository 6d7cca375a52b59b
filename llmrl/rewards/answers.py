"""Rewards for answers: to the reference, by the sources, with citations, and only where there is something to say.

What an answer may go by is the sample's `context`: numbered sources, `[1] ...`, as `llmrl.retrieval.context` puts them into a
prompt. A reference that says it does not know means that the context lacks the answer.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from llmrl.errors import UserError
from llmrl.registry import REWARDS
from llmrl.rewards.base import Reward, Sample, reward
from llmrl.rewards.grounding import abstains, citations, content_words, supported_share

_SOURCE = re.compile(r"(?:^|\n\n)\[(\d{1,3})\] ")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?!\[\d)|\n+")


@reward("answer")
@dataclass
class Answer(Reward):
    """Rewards words of the reference answer, and no others: F1 of content words, in [0, 1].

    As in SQuAD (Rajpurkar and others, 2018): precision is the share of the response's content words that stand in the
    reference, recall the share of the reference's that stand in the response, words said twice counting twice. Where the
    reference says that it does not know, 1 for saying so and 0 for anything else; where it knows, 0 for saying so.
    """

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> float:
        if sample.answer is None:
            raise ValueError("the prompt has no reference answer (prompts.answer_field)")
        if abstains(sample.answer) or abstains(sample.response):
            return float(abstains(sample.answer) and abstains(sample.response))
        return answer_f1(sample.response, sample.answer)


def answer_f1(response: str, reference: str) -> float:
    """Harmonic mean of precision and recall of content words; 0 where one of the two has none."""
    said, wanted = Counter(content_words(response)), Counter(content_words(reference))
    shared = sum((said & wanted).values())
    return 2 * shared / (said.total() + wanted.total()) if shared else 0.0


@reward("grounded")
@dataclass
class Grounded(Reward):
    """Rewards what the sources support, said in words of one's own: in [0, 1].

        support = (share of content words in the context + share of pairs of neighbouring content words in it) / 2
        copied  = longest run of the response's words that stands in the context word for word, above `copy_cap`, per word
        reward  = support x (1 - copied)

    The question's words count for nothing, so that saying it again earns nothing; neither does an answer of fewer than
    `least_words` other content words, or one that does not know.
    """

    copy_cap: int = 12  # words in a row that may be taken over before it costs, at least 1
    least_words: int = 1  # content words that are not the question's, at least 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("copy_cap", "least_words"):
            if getattr(self, name) < 1:
                raise UserError(f"reward.grounded.{name}={getattr(self, name)} is out of range: it must be at least 1")

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> float:
        context, asked = sample.context or "", set(content_words(question_of(sample)))
        words = [word for word in content_words(sample.response) if word not in asked]
        if len(words) < self.least_words or abstains(sample.response):
            return 0.0
        held = content_words(context)
        known, pairs = set(held), set(pairwise(held))
        share = sum(word in known for word in words) / len(words)
        own = list(pairwise(content_words(sample.response)))
        share_of_pairs = sum(pair in pairs for pair in own) / len(own) if own else share
        said = sample.response.lower().split()
        copied = max(longest_run(said, context.lower().split()) - self.copy_cap, 0) / len(said)
        return (share + share_of_pairs) / 2 * (1 - copied)


def longest_run(words: Sequence[str], within: Sequence[str]) -> int:
    """Length of the longest run of words that stands in another text, in its order and without gaps."""
    best, before = 0, [0] * (len(within) + 1)
    for word in words:
        now = [0] * (len(within) + 1)
        for at, other in enumerate(within, 1):
            if word == other:
                now[at] = before[at - 1] + 1
        best, before = max(best, max(now)), now
    return best


@reward("context_gain")
@dataclass
class ContextGain(Reward):
    """Rewards what goes by this context and no other: a reward with the sample's own context minus with a shuffled one.

    The shuffled context is the next one in the batch that differs, so that each sample is scored against another question's
    sources. 0 for a sample that has no context, and where no other differs: alone in a batch, there is nothing to compare.
    """

    of: str = "grounded"  # a registered reward that reads the context; it has its defaults

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of == "context_gain":
            raise UserError("reward.context_gain.of=context_gain: it must be another reward, as in of=grounded")
        REWARDS.check(self.of)

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        each: Reward = REWARDS.get(self.of)()
        contexts = [_other_context(samples, at) for at in range(len(samples))]
        pairs = [(one, _with(one, other)) for one, other in zip(samples, contexts, strict=True) if other is not None]
        own, shuffled = each([one for one, _ in pairs]), each([other for _, other in pairs])
        gains = iter([float(a) - float(b) for a, b in zip(own, shuffled, strict=True)])
        return [0.0 if other is None else next(gains) for other in contexts]


def _with(sample: Sample, context: str) -> Sample:
    """The sample as if this context had stood in its prompt."""
    return replace(sample, context=context, prompt=sample.prompt.replace(sample.context or "", context))


def _other_context(samples: Sequence[Sample], at: int) -> str | None:
    """The context of the next sample that has another one; None where this one has none or nobody's differs."""
    own = samples[at].context
    following = (one.context for one in (*samples[at + 1 :], *samples[:at]))
    return next((context for context in following if context and context != own), None) if own else None


@reward("cites")
@dataclass
class Cites(Reward):
    """Rewards sentences that cite a source which supports them: in [-1, 1].

    The mean over sentences of: the share of the sentence's content words that stand in the sources it cites; 0 where it cites
    none; -1 where it cites one that is not there. An answer that does not know needs no citation: 0.
    """

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> float:
        sources = sources_of(sample.context or "")
        sentences = [sentence for sentence in _SENTENCE.split(sample.response) if sentence.strip()]
        if not sentences or abstains(sample.response):
            return 0.0
        return sum(_support(sentence, sources) for sentence in sentences) / len(sentences)


def _support(sentence: str, sources: dict[int, str]) -> float:
    cited = citations(sentence)
    if any(number not in sources for number in cited):
        return -1.0
    if not cited or not content_words(sentence):
        return 0.0
    return supported_share(sentence, "\n".join(sources[number] for number in cited))


def sources_of(context: str) -> dict[int, str]:
    """The numbered sources of a context, by their numbers."""
    parts = _SOURCE.split(context)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def question_of(sample: Sample) -> str:
    """What was asked: the prompt without the context that stands in it."""
    return sample.prompt.replace(sample.context, " ") if sample.context else sample.prompt


@reward("abstain")
@dataclass
class Abstain(Reward):
    """Rewards saying "I don't know" exactly where the reference does: 1 where the two agree, else 0."""

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> float:
        if sample.answer is None:
            raise ValueError("the prompt has no reference answer (prompts.answer_field)")
        return float(abstains(sample.response) == abstains(sample.answer))

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
from llmrl.rewards.grounding import abstains, all_words, citations, content_words, quotations, supported_share

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
        copied  = words in runs of more than 5 that stand in the context one after the other, above `copy_cap`, per word
        reward  = support x (1 - copied)

    The question's words count for nothing, so that saying it again earns nothing; neither does an answer of fewer than
    `least_words` other content words, one that does not know, or any where the reference says that it does not know.
    """

    copy_cap: int = 12  # words that may be taken over word for word before it costs, at least 1
    least_words: int = 3  # content words that are not the question's, at least 1

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
        if len(words) < self.least_words or abstains(sample.response) or abstains(sample.answer or ""):
            return 0.0
        held = content_words(context)
        known, pairs = set(held), set(pairwise(held))
        share = sum(word in known for word in words) / len(words)
        own = [pair for pair in pairwise(content_words(sample.response)) if not asked.issuperset(pair)]
        share_of_pairs = sum(pair in pairs for pair in own) / len(own) if own else 0.0
        said = all_words(sample.response)
        copied = max(taken_over(said, all_words(context)) - self.copy_cap, 0) / len(said)
        return (share + share_of_pairs) / 2 * (1 - copied)


def taken_over(words: Sequence[str], within: Sequence[str], run: int = 5) -> int:
    """How many words stand in runs of more than `run` that are in another text, in its order and without gaps."""
    count = at = 0
    while at < len(words):
        length = _longest_run(words, at, within)
        if length > run:
            count += length
        at += length if length > run else 1
    return count


def _longest_run(words: Sequence[str], at: int, within: Sequence[str]) -> int:
    """Length of the longest run that begins at a word."""
    best = 0
    for start, word in enumerate(within):
        if word == words[at]:
            length = 1
            while at + length < len(words) and start + length < len(within) and words[at + length] == within[start + length]:
                length += 1
            best = max(best, length)
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

    The mean over sentences of: the share of the sentence's content words, the question's left out, that stand in the sources it
    cites, averaged over these; 0 where it cites none, says no more than the question, or quotes words that no cited source
    holds in that order; -1 where it cites a source that is not there. An answer that does not know needs no citation: 0, and
    nothing is earned where the reference says that it does not know.
    """

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> float:
        sources, asked = sources_of(sample.context or ""), question_of(sample)
        sentences = [sentence for sentence in _SENTENCE.split(sample.response) if sentence.strip()]
        if not sentences or abstains(sample.response):
            return 0.0
        earned = sum(_support(sentence, sources, asked) for sentence in sentences) / len(sentences)
        return min(earned, 0.0) if abstains(sample.answer or "") else earned


def _support(sentence: str, sources: dict[int, str], question: str) -> float:
    cited = citations(sentence)
    if any(number not in sources for number in cited):
        return -1.0
    asked = set(content_words(question))
    if not cited or asked.issuperset(content_words(sentence)):
        return 0.0
    held = [f" {' '.join(all_words(sources[number]))} " for number in cited]
    if any(not any(f" {' '.join(quoted)} " in each for each in held) for quoted in quotations(sentence)):
        return 0.0
    return sum(supported_share(sentence, sources[number], question) for number in cited) / len(cited)


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

"""Prompts with what was retrieved for them, made before training: the context stands in the prompt, outside the loss."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmrl.config import ContextKind, TrainConfig
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel
from llmrl.prompts import Prompt, PromptSplit
from llmrl.prompts.sources import fraction
from llmrl.retrieval.context import ground
from llmrl.retrieval.search import Hit, searcher_for
from llmrl.rewards.grounding import all_words, content_words, supported_share
from llmrl.rollout.ask import DONT_KNOW, chat_of, control_tokens

SUPPORTED = 0.8
"""A chunk of the right document holds the answer if it says it, or so many of its content words,"""
LEAST_WORDS = 3
"""where it has so many."""


@dataclass(frozen=True)
class Grounding:
    """Prompts with their contexts, and the index these came from."""

    split: PromptSplit
    index_sha256: str  # of its manifest
    counts: dict[str, int]  # of the prompts that are trained on: kind to how many, and `answered` those with the answer


def with_context(split: PromptSplit, config: TrainConfig, language_model: LanguageModel) -> Grounding:
    """The prompts of a run with what `config.retriever` finds for each. Raises UserError.

    Each is given its kind by weight and a hash of its id and the seed. Its reference answer cites the source that holds it,
    where sources are numbered; where its context lacks the answer, so far as that is known, it becomes "I don't know.".
    """
    maker = _Maker(config, language_model)
    maker.refuse_unknown([*split.train, *split.held_out])
    train = [maker.made(prompt, maker.kind(prompt), split.train) for prompt in split.train]
    held_out = [maker.made(prompt, config.context.held_out, split.held_out) for prompt in split.held_out]
    counts = Counter(prompt.kind for prompt in train)
    counts["answered"] = sum(prompt.answer not in (None, DONT_KNOW) for prompt in train)
    return Grounding(PromptSplit(train, held_out), maker.searcher.index.sha256, dict(counts))


class _Maker:
    def __init__(self, config: TrainConfig, language_model: LanguageModel) -> None:
        self.config, self.language_model = config, language_model
        self.searcher = searcher_for(config.retriever)
        self.chat = chat_of(language_model) if config.prompting.chat else None
        self.of: dict[int, frozenset[str]] = {}  # every document that a chunk stands in

    def refuse_unknown(self, prompts: Sequence[Prompt]) -> None:
        """Raises UserError for a document that the index does not have: nothing of it could ever be found."""
        known = self.searcher.index.store.documents()
        for prompt in prompts:
            for path in prompt.gold:
                if path not in known:
                    raise UserError(f"prompt {prompt.id}: the index has no document {path!r} (prompts.gold_field)")

    def kind(self, prompt: Prompt) -> ContextKind:
        weights = self.config.context.weights()
        at = fraction(f"{self.config.seed} {prompt.id}") * sum(weights.values())
        for kind, weight in weights.items():
            at -= weight
            if at < 0:
                return kind
        return max(weights, key=lambda kind: weights[kind])

    def made(self, prompt: Prompt, kind: ContextKind, others: Sequence[Prompt]) -> Prompt:
        hits, language_model = self._hits(prompt, kind, others), self.language_model
        window = language_model.context_length
        try:
            grounded = ground(
                prompt.text, hits, self.config.prompting,
                count=lambda text: len(language_model.tokenizer(text)["input_ids"]),  # type: ignore[arg-type]
                room=None if window is None else window - self.config.rollout.max_new_tokens,
                control_tokens=control_tokens(language_model), chat=self.chat,
            )  # fmt: skip
        except UserError as error:
            raise UserError(f"prompt {prompt.id}: {error}") from error
        held = next((source for source in grounded.sources if self._answers(source.hit, prompt)), None)
        answer = DONT_KNOW if prompt.answer is not None or not prompt.gold else None
        if held is not None:
            answer = f"{prompt.answer} [{held.number}]" if "{number}" in self.config.prompting.source else prompt.answer
        return dataclasses.replace(
            prompt, text=grounded.prompt, context=grounded.context, answer=answer, kind=kind.value,
        )  # fmt: skip

    def _hits(self, prompt: Prompt, kind: ContextKind, others: Sequence[Prompt]) -> list[Hit]:
        k = self.config.retriever.k
        if kind is ContextKind.none:
            return []
        if kind is ContextKind.shuffled:
            return self._search(_other(prompt, others))[:k]
        found = self._search(prompt)
        if kind is ContextKind.retrieved:
            return found[:k]
        wrong = [hit for hit in found if not self._is_of(hit, prompt) and not self._answers(hit, prompt)]
        right = self._right(prompt) if kind is ContextKind.gold else []
        hits = wrong[: k - len(right)]
        for hit in right:
            hits.insert(int(fraction(f"{self.config.seed} {prompt.id} place") * (len(hits) + 1)), hit)
        return hits

    def _search(self, prompt: Prompt) -> list[Hit]:
        return self.searcher.search_kept(prompt.text, 10 * self.config.retriever.k)

    def _right(self, prompt: Prompt) -> list[Hit]:
        """The best chunk of the documents that answer, one that holds the answer if there is one."""
        if not prompt.gold:
            return []
        store = self.searcher.index.store
        hits = self.searcher.search(prompt.text, 100, paths=prompt.gold)
        rest = store.ids_of(prompt.gold) - {hit.chunk.id for hit in hits}  # words may find none of them
        hits += [Hit(chunk, 0.0) for chunk in store.chunks(sorted(rest))]
        holding = [hit for hit in hits if self._answers(hit, prompt)]
        return (holding or hits)[:1]

    def _is_of(self, hit: Hit, prompt: Prompt) -> bool:
        """Whether a chunk stands in a document that answers, under whatever other name it may be found."""
        number = hit.chunk.id
        if number not in self.of:
            self.of[number] = frozenset(self.searcher.index.store.paths([number])[number])
        return not self.of[number].isdisjoint(prompt.gold)

    def _answers(self, hit: Hit, prompt: Prompt) -> bool:
        """Whether a chunk holds the reference answer: word for word or, in the right document, nearly all its content words.

        Where the right document is not known, whichever chunk says it word for word.
        """
        if prompt.answer is None or (prompt.gold and not self._is_of(hit, prompt)):
            return False
        said, wanted = f" {' '.join(all_words(hit.chunk.text))} ", " ".join(all_words(prompt.answer))
        if wanted and f" {wanted} " in said:
            return True
        enough = bool(prompt.gold) and len(set(content_words(prompt.answer))) >= LEAST_WORDS
        return enough and supported_share(prompt.answer, hit.chunk.text) >= SUPPORTED


def _other(prompt: Prompt, others: Sequence[Prompt]) -> Prompt:
    """Another prompt, that other documents answer: always the same one."""
    fitting = [other for other in others if other.id != prompt.id and not set(other.gold) & set(prompt.gold)]
    if not fitting:
        raise UserError(f"context.shuffled: there is no question beside {prompt.id} that other documents answer")
    return fitting[int(fraction(f"{prompt.id} other") * len(fitting))]

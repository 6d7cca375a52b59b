"""How chunks are ordered for a question: by vectors, by words, or by both.

A retriever is built of an open index and a config, and ranks the index's rows for a question; see `Retriever`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from llmrl.config import Fusion, RetrieverConfig
from llmrl.errors import UserError
from llmrl.retrieval.opened import OpenIndex

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Ranked:
    """Rows of an index for a question, best first."""

    rows: Rows  # [n]
    scores: Floats  # [n], what they are ordered by
    parts: dict[str, Floats]  # `cosine` and `bm25` [n], as far as they were worked out


class Retriever(Protocol):
    """What a plug-in registers in `llmrl.registry.RETRIEVERS`."""

    needs_vectors: ClassVar[bool]
    needs_words: ClassVar[bool]

    def __init__(self, index: OpenIndex, config: RetrieverConfig) -> None: ...

    def rank(self, question: str, count: int, allowed: Rows | None) -> Ranked:
        """At most `count` rows, of those `allowed` alone if given; what does not fit at all is left out."""
        ...


class Dense:
    """By the cosine of question and chunk."""

    needs_vectors, needs_words = True, False

    def __init__(self, index: OpenIndex, config: RetrieverConfig) -> None:
        self.index, self.vectors = index, index.vectors

    def rank(self, question: str, count: int, allowed: Rows | None) -> Ranked:
        rows, cosines = self.vectors(self.index.embed(question), count, allowed)
        return Ranked(rows, cosines, {"cosine": cosines})


class BM25:
    """By the words that question and chunk share; chunks that share none are not found."""

    needs_vectors, needs_words = False, True

    def __init__(self, index: OpenIndex, config: RetrieverConfig) -> None:
        self.index, self.words = index, index.words

    def rank(self, question: str, count: int, allowed: Rows | None) -> Ranked:
        scores = self.words.scores(question, self.index.count)
        rows = best(scores, count, allowed)
        rows = rows[scores[rows] > 0]
        return Ranked(rows, scores[rows], {"bm25": scores[rows]})


class Hybrid:
    """By both: standardised scores added by weight, or reciprocal ranks (Cormack and others, SIGIR 2009).

    A score is standardised over all chunks of the index: how far it stands out for this question. Where vectors are not all
    compared, over the candidates of both halves, and chunks in neither are not found.
    """

    needs_vectors, needs_words = True, True

    def __init__(self, index: OpenIndex, config: RetrieverConfig) -> None:
        self.index, self.config = index, config
        self.vectors, self.words = index.vectors, index.words

    def rank(self, question: str, count: int, allowed: Rows | None) -> Ranked:
        config, index = self.config, self.index
        query, words = index.embed(question), self.words.scores(question, index.count)
        if config.fusion is Fusion.blend and self.vectors.is_exact:
            cosines = self.vectors.cosines(query)
            scores = self._blended(standardised(cosines), standardised(words))
            rows = best(scores, count, allowed)
            return Ranked(rows, scores[rows], {"cosine": cosines[rows], "bm25": words[rows]})
        near, _ = self.vectors(query, max(count, config.candidates), allowed)
        said = best(words, max(count, config.candidates), allowed)
        said = said[words[said] > 0]
        rows = np.union1d(near, said)
        cosines, words = self.vectors.array[rows] @ query, words[rows]
        if config.fusion is Fusion.blend:
            scores = self._blended(standardised(cosines), standardised(words))
        else:
            scores = self._blended(self._reciprocal(rows, near), self._reciprocal(rows, said))
        order = best(scores, count, None)
        return Ranked(rows[order], scores[order], {"cosine": cosines[order], "bm25": words[order]})

    def _blended(self, near: Floats, said: Floats) -> Floats:
        return (self.config.dense_weight * near + (1 - self.config.dense_weight) * said).astype(np.float32)

    def _reciprocal(self, rows: Rows, ranked: Rows) -> Floats:
        """1 / (rrf_k + rank) for each of `rows`, rank from 1; 0 for those that are not ranked."""
        found = np.zeros(len(rows), dtype=np.float32)
        found[np.searchsorted(rows, ranked)] = 1 / (self.config.rrf_k + 1 + np.arange(len(ranked)))
        return found


def standardised(scores: Floats) -> Floats:
    """To mean 0 and deviation 1; all 0 where all are equal."""
    deviation = float(scores.std())
    return (scores - scores.mean()) / deviation if deviation > 1e-9 else np.zeros_like(scores)


def best(scores: Floats, count: int, allowed: Rows | None) -> Rows:
    """Rows of the highest scores, best first; of equal ones the first. Of those `allowed` alone, if given."""
    rows = np.arange(len(scores), dtype=np.int64) if allowed is None else allowed
    held = scores[rows]
    if count < len(held):
        cut = np.partition(held, len(held) - count)[len(held) - count]
        keep = held >= cut
        rows, held = rows[keep], held[keep]
    return rows[np.argsort(-held, kind="stable")[:count]]


def missing(retriever: Any, manifest_has: dict[str, bool], name: str) -> None:
    """Raises UserError where the index lacks what the retriever needs."""
    for part, needed in (("vectors", retriever.needs_vectors), ("words", retriever.needs_words)):
        if needed and not manifest_has[part]:
            raise UserError(
                f"retriever={name} needs {part}, and the index was made without: ingest again with retriever={name}, or use "
                f"retriever={'bm25' if part == 'vectors' else 'dense'}"
            )

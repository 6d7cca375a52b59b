"""Searching an index: ranked, filtered, ordered anew, as hits."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrl.config import RetrieverConfig
from llmrl.errors import UserError, one_line
from llmrl.registry import RETRIEVERS
from llmrl.retrieval.embedder import WAYS_OUT
from llmrl.retrieval.manifest import pointer
from llmrl.retrieval.opened import OpenIndex
from llmrl.retrieval.retrievers import Ranked, Retriever, missing
from llmrl.retrieval.store import Only, StoredChunk

MOST_QUESTION_CHARACTERS = 20_000
OPENINGS = 3


@dataclass(frozen=True)
class Hit:
    """A chunk that was found. `scores` are `cosine`, `bm25` and `reranker`, as far as they were worked out."""

    chunk: StoredChunk
    score: float  # what hits are ordered by; see each retriever
    scores: dict[str, float] = field(default_factory=dict)


class Searcher:
    """Finds chunks for questions as a config says."""

    def __init__(self, config: RetrieverConfig) -> None:
        """Opens the index. Raises UserError."""
        if config.index is None:
            raise UserError("name the index: a folder made by python -m llmrl.ingest docs=... index=...")
        self.config = config
        self._kept: dict[tuple[str, int], list[Hit]] = {}
        for attempt in range(OPENINGS):
            path = Path(config.index)
            before = pointer(path)
            try:
                self._open(path)
                break
            except (UserError, OSError, sqlite3.Error):  # an ingest may have just put another in its place
                if attempt == OPENINGS - 1 or pointer(path) == before:
                    raise

    def _open(self, path: Path) -> None:
        config, self.index = self.config, OpenIndex(path, self.config.embedder)
        self.name = self.index.manifest.retriever if config.name == "auto" else config.name
        made: type[Retriever] = RETRIEVERS.get(self.name)  # type: ignore[assignment]
        missing(made, self.index.has, self.name)
        if config.mmr < 1 and not self.index.has["vectors"]:
            raise UserError("retriever.mmr compares vectors, and the index was made without: use retriever.mmr=1")
        self.retriever = made(self.index, config)
        self.held = self.index.vectors if config.mmr < 1 else None

    @cached_property
    def reranker(self) -> Any:
        """A cross-encoder of sentence-transformers."""
        from sentence_transformers import CrossEncoder

        from llmrl.models.places import place_of

        assert self.config.reranker is not None
        folder = place_of(self.config.reranker, "reranker", "retriever.reranker", WAYS_OUT)
        if not list(folder.glob("*.safetensors")):
            raise UserError(f"reranker {self.config.reranker!r} has no .safetensors weights; pickled weights are not read")
        try:
            return CrossEncoder(
                str(folder), local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except Exception as error:  # a damaged file breaks its parser in any way it likes
            raise UserError(f"reranker {self.config.reranker!r} could not be loaded: {one_line(error)[:300]}") from error

    def search(self, question: str, k: int | None = None, paths: Sequence[str] = ()) -> list[Hit]:
        """The chunks for a question, best first: at most k, and fewer where fewer fit; of these documents alone, if any.

        Raises UserError.
        """
        config, wanted = self.config, k or self.config.k
        if not question.strip():
            raise UserError("the question is empty")
        if len(question) > MOST_QUESTION_CHARACTERS:
            raise UserError(
                f"the question has {len(question):,} characters, more than {MOST_QUESTION_CHARACTERS:,}: ask with fewer words"
            )
        if not self.index.count:
            return []
        only = Only(config.path, config.where, paths)
        ids = self.index.store.allowed(only)
        allowed = None if ids is None else self.index.rows_of(ids)
        more = config.reranker is not None or config.mmr < 1
        ranked = self.retriever.rank(question, max(wanted, config.candidates) if more else wanted, allowed)
        ranked = _above(ranked, config.min_score)
        if config.reranker is not None:
            ranked = self._reranked(question, ranked)
        if config.mmr < 1:
            ranked = self._diverse(ranked, wanted)
        return self._hits(ranked, wanted, only)

    def search_kept(self, question: str, k: int) -> list[Hit]:
        """As `search`, and remembered: asked again, the same hits."""
        if (question, k) not in self._kept:
            self._kept[question, k] = self.search(question, k)
        return self._kept[question, k]

    def search_all(self, questions: Sequence[str], k: int | None = None) -> list[list[Hit]]:
        return [self.search(question, k) for question in questions]

    def _hits(self, ranked: Ranked, wanted: int, only: Only) -> list[Hit]:
        chunks = self.index.store.chunks(self.index.ids[ranked.rows[:wanted]].tolist(), only)
        return [
            Hit(chunk, float(ranked.scores[i]), {name: float(values[i]) for name, values in ranked.parts.items()})
            for i, chunk in enumerate(chunks)
        ]

    def _reranked(self, question: str, ranked: Ranked) -> Ranked:
        if not len(ranked.rows):
            return ranked
        texts = [chunk.text for chunk in self.index.store.chunks(self.index.ids[ranked.rows].tolist())]
        scores = np.asarray(self.reranker.predict([(question, text) for text in texts], show_progress_bar=False)).reshape(-1)
        order = np.argsort(-scores, kind="stable")
        return _taken(Ranked(ranked.rows, scores, ranked.parts | {"reranker": scores}), order)

    def _diverse(self, ranked: Ranked, wanted: int) -> Ranked:
        """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): each is like the question, unlike those before.

        Relevance is scaled to [0, 1] over the candidates, likeness is the cosine.
        """
        if len(ranked.rows) < 2:
            return ranked
        assert self.held is not None
        vectors, weight = self.held.array[ranked.rows], self.config.mmr
        span = float(np.ptp(ranked.scores)) or 1.0
        relevance = (ranked.scores - ranked.scores.min()) / span
        likeness = np.full(len(vectors), -1.0)
        order: list[int] = []
        for _ in range(min(wanted, len(vectors))):
            value = weight * relevance - ((1 - weight) * likeness if order else 0)
            value[order] = -np.inf
            order.append(int(value.argmax()))
            likeness = np.maximum(likeness, vectors @ vectors[order[-1]])
        return _taken(ranked, np.array(order))


_last: tuple[object, Searcher] | None = None


def searcher_for(config: RetrieverConfig) -> Searcher:
    """A searcher; the one that was asked for last, with its embedder and what it found, where config and index are the same.

    Jobs of a sweep in one process so open and embed once. Raises UserError.
    """
    global _last
    if config.index is None:
        return Searcher(config)
    key = (repr(config), pointer(Path(config.index)))
    if _last is None or _last[0] != key:
        _last = None  # before the next takes as much
        _last = (key, Searcher(config))
    return _last[1]


def _above(ranked: Ranked, least: float | None) -> Ranked:
    if least is None:
        return ranked
    told = ranked.parts.get("cosine", ranked.scores)
    return _taken(ranked, np.flatnonzero(told >= least))


def _taken(ranked: Ranked, order: NDArray[np.int64]) -> Ranked:
    return Ranked(ranked.rows[order], ranked.scores[order], {name: values[order] for name, values in ranked.parts.items()})

"""An index, open: chunks, vectors, words, and the embedder that goes with them, loaded when they are first needed."""

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrl.config import EmbedderConfig
from llmrl.errors import UserError
from llmrl.retrieval.embedder import Embedder
from llmrl.retrieval.manifest import AGAIN, checked
from llmrl.retrieval.store import Store
from llmrl.retrieval.vectors import Vectors
from llmrl.retrieval.words import Words


class OpenIndex:
    """The generation that counts when it is opened, its files checked against their hashes. Raises UserError.

    It stays as it is while later ingests put others in its place.
    """

    def __init__(self, path: Path, embedder: str | None = None) -> None:
        self.path, self._embedder_place = path, embedder
        generation = checked(path)
        self.folder, self.manifest, self.sha256 = generation.folder, generation.manifest, generation.sha256
        self.store = Store(self.folder / "chunks.sqlite")
        self.ids = np.array(self.store.chunk_ids(), dtype=np.int64)

    @property
    def count(self) -> int:
        return len(self.ids)

    @property
    def has(self) -> dict[str, bool]:
        return {"vectors": self.manifest.embedder is not None, "words": self.manifest.words is not None}

    @cached_property
    def vectors(self) -> Vectors:
        """Of an index that has them; in memory from when a retriever first takes hold of them. Raises UserError."""
        assert self.manifest.neighbours is not None
        vectors = Vectors.load(self.folder, self.manifest.neighbours)
        if vectors.count != self.count:
            raise UserError(f"index {self.path} is damaged: {vectors.count} vectors for {self.count} chunks; {AGAIN}")
        return vectors

    @cached_property
    def words(self) -> Words:
        """Of an index that has them; in memory from when a retriever first takes hold of them."""
        assert self.manifest.words is not None
        folder = self.folder / "words"
        words = Words.load(folder, self.manifest.words)
        if words.index is None and any(name.startswith("words/") for name in self.manifest.files):
            raise UserError(f"index {self.path} is damaged: {folder} is missing; {AGAIN}")
        return words

    @cached_property
    def embedder(self) -> Embedder:
        """The one the index was made with, wherever it lies now. Raises UserError if it is another."""
        said = self.manifest.embedder
        assert said is not None
        name = self._embedder_place or said["name"]
        made = Embedder(EmbedderConfig(name=name, query_prefix=said["query_prefix"], passage_prefix=said["passage_prefix"]))
        now = made.describe()
        for key in ("dimension", "weights_sha256", "modules", "pooling"):
            if now[key] != said[key]:
                raise UserError(
                    f"index {self.path} was made with {said['name']!r}, and {name!r} is another model (its {key} differs): "
                    "name the index's own with retriever.embedder=..., or ingest again"
                )
        return made

    def embed(self, question: str) -> NDArray[np.float32]:
        """[D]"""
        return self.embedder.questions([question])[0]

    def rows_of(self, ids: set[int]) -> NDArray[np.int64]:
        """Rows of chunks, sorted."""
        return np.flatnonzero(np.isin(self.ids, np.fromiter(ids, dtype=np.int64, count=len(ids))))

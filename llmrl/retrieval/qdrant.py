"""Vectors held by Qdrant: on a server, for indexes that one machine's memory does not hold, or within this process."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmrl.config import RetrieverConfig
from llmrl.errors import UserError, one_line
from llmrl.retrieval.opened import OpenIndex
from llmrl.retrieval.retrievers import Ranked

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


Rows = NDArray[np.int64]
T = TypeVar("T")

SECONDS = 10
A_BATCH = 1024


class Qdrant:
    """By the cosine, as Qdrant finds it.

    Each state of an index is a collection of its own, `llmrl-` and the manifest's hash, filled from `vectors.npy` when it is
    first asked for; a point's id is its chunk's. Without `retriever.url` it is held in memory: the files of Qdrant's embedded
    mode hold pickles, and are not used. Collections of earlier states stay on the server for whoever still searches them.
    """

    needs_vectors, needs_words = True, False

    def __init__(self, index: OpenIndex, config: RetrieverConfig) -> None:
        """Raises UserError if the client is not installed, or the server can't be reached or refuses."""
        self.index, self.url = index, config.url
        self.collection = f"llmrl-{index.sha256[:16]}"
        self.client = self._told(self._connect)
        self._told(self._fill)

    def rank(self, question: str, count: int, allowed: Rows | None) -> Ranked:
        """See `Retriever`. Raises UserError if the server fails."""
        query = self.index.embed(question)
        ids, cosines = self._told(lambda: self._nearest(query, min(count, self.index.count), allowed))
        rows = np.searchsorted(self.index.ids, np.array(ids, dtype=np.int64))
        scores = np.array(cosines, dtype=np.float32)
        return Ranked(rows, scores, {"cosine": scores})

    def _connect(self) -> "QdrantClient":
        try:
            from qdrant_client import QdrantClient
        except ImportError:
            raise UserError("retriever=qdrant needs its client: pip install 'llmrl[qdrant]'") from None
        if self.url is None:
            return QdrantClient(":memory:")
        key = os.environ.get("QDRANT_API_KEY")  # never in a config, which is written into run folders
        return QdrantClient(url=self.url, api_key=key, timeout=SECONDS, check_compatibility=False)

    def _fill(self) -> None:
        """Put every vector there that is not there yet: one that was cut off goes on when it is next opened."""
        from qdrant_client import models

        count = self.index.count
        if not self.client.collection_exists(self.collection):
            size = self.index.manifest.embedder["dimension"] if self.index.manifest.embedder else 1
            vectors = models.VectorParams(size=size, distance=models.Distance.DOT)  # they have length 1
            self.client.create_collection(self.collection, vectors_config=vectors)
        if self.client.count(self.collection, exact=True).count == count:
            return
        if self.url is not None:
            print(f"llmrl: filling the collection {self.collection} of {self.url} with {count:,} vectors", file=sys.stderr)
        array = np.load(self.index.folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        for start in range(0, count, A_BATCH):
            ids = self.index.ids[start : start + A_BATCH].tolist()
            points = models.Batch(ids=ids, vectors=array[start : start + A_BATCH].tolist())
            self.client.upsert(self.collection, points, wait=True)

    def _nearest(self, query: NDArray[np.float32], count: int, allowed: Rows | None) -> tuple[list[int], list[float]]:
        from qdrant_client import models

        if count == 0 or (allowed is not None and not len(allowed)):
            return [], []
        only = None
        if allowed is not None:
            only = models.Filter(must=[models.HasIdCondition(has_id=self.index.ids[allowed].tolist())])
        found = self.client.query_points(
            self.collection, query=query.tolist(), limit=count, query_filter=only, with_payload=False
        ).points
        return [int(point.id) for point in found], [point.score for point in found]

    def _told(self, work: Callable[[], T]) -> T:
        """What `work` gives. Whatever a server answers that is no answer becomes one line."""
        try:
            return work()
        except UserError:
            raise
        except Exception as error:  # of httpx, of grpc or of the client, as it likes
            where = f"Qdrant at {self.url}" if self.url else "Qdrant"
            raise UserError(
                f"{where} failed: {one_line(error)[:300]}; is the server up, and QDRANT_API_KEY set if it wants one?"
                if self.url
                else f"{where} failed: {one_line(error)[:300]}"
            ) from error

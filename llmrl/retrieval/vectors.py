"""Nearest vectors by FAISS. The truth is `vectors.npy`; what FAISS holds is built from it.

Legend: N vectors of D numbers, each of length 1, so that a product of two is their cosine.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch  # noqa: F401  (before faiss: the other order breaks OpenMP, sentence-transformers #2473)

import faiss  # isort: skip  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from llmrl.config import Neighbours
from llmrl.errors import UserError

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 32, 200, 128
PROBES = 64
REFINED = 8
"""IVF-PQ finds this many times as many as asked for, which are then ordered by their exact cosines."""
FEW = 50_000
"""So many that may be found are all compared, whatever the index."""
LEAST_FOR_LISTS = 10_000
SAMPLE = 200


class Nearest(Protocol):
    """What finds vectors: FAISS, or a server."""

    def __call__(self, query: Floats, count: int, allowed: Rows | None) -> tuple[Rows, Floats]:
        """(rows, cosines), best first, at most `count` and none that is not there; of the rows `allowed` alone, if given."""
        ...


class Vectors:
    """All vectors of an index in memory, and what looks through them."""

    def __init__(self, array: Floats, index: "faiss.Index | None" = None) -> None:
        """`index` is what FAISS built of them, where they are not all compared."""
        self.count, dimension = array.shape
        flat = faiss.IndexFlatIP(dimension)
        for start in range(0, self.count, 65536):
            flat.add(np.ascontiguousarray(array[start : start + 65536]))
        self.flat, self.index = flat, index
        stored = faiss.rev_swig_ptr(flat.get_xb(), self.count * dimension) if self.count else np.zeros(0, dtype=np.float32)
        self.array: Floats = stored.reshape(self.count, dimension)  # FAISS's own memory

    @property
    def is_exact(self) -> bool:
        return self.index is None

    @classmethod
    def load(cls, folder: Path, neighbours: dict[str, Any]) -> "Vectors":
        """From files whose hashes were checked."""
        array = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        path = folder / "neighbours.faiss"
        index = None
        if neighbours["kind"] != Neighbours.flat.value:
            index = faiss.read_index(str(path))
            if neighbours["kind"] == Neighbours.ivfpq.value:
                index.nprobe = PROBES  # pyright: ignore[reportAttributeAccessIssue]
        return cls(array, index)

    def cosines(self, query: Floats) -> Floats:
        """[N]"""
        return self.array @ query

    def __call__(self, query: Floats, count: int, allowed: Rows | None = None) -> tuple[Rows, Floats]:
        if not self.count or (allowed is not None and not len(allowed)):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        if allowed is not None and len(allowed) <= FEW:  # what looks at a part of all may look past them
            exact = self.array[allowed] @ query
            order = np.argsort(-exact, kind="stable")[:count]
            return allowed[order], exact[order]
        index = self.flat if self.index is None else self.index
        parameters = None if allowed is None else _restricted(index, allowed)
        wanted = min(count * (REFINED if isinstance(index, faiss.IndexIVFPQ) else 1), self.count)
        _, found = index.search(query[None], wanted, params=parameters)
        rows = found[0][found[0] >= 0]  # FAISS fills up with -1 what it did not find
        exact = self.array[rows] @ query
        order = np.argsort(-exact, kind="stable")[:count]
        return rows[order], exact[order]


def _restricted(index: "faiss.Index", allowed: Rows) -> Any:
    made: Any = faiss  # its parameters are made by name at run time, which its stubs do not know
    selector = made.IDSelectorBatch(allowed)
    if isinstance(index, faiss.IndexHNSW):
        return made.SearchParametersHNSW(sel=selector, efSearch=HNSW_SEARCH)
    if isinstance(index, faiss.IndexIVFPQ):
        return made.SearchParametersIVF(sel=selector, nprobe=PROBES)
    return made.SearchParameters(sel=selector)


def build(array: Floats, kind: Neighbours, path: Path) -> dict[str, Any]:
    """Write what FAISS needs beside the vectors, and say how it finds: for what is not exact, its recall@10 on a sample.

    Raises UserError where there are too few vectors for the kind.
    """
    count, dimension = array.shape
    if kind is Neighbours.flat:
        return {"kind": kind.value}
    made: dict[str, Any] = {"kind": kind.value}
    if kind is Neighbours.hnsw:
        index = faiss.IndexHNSWFlat(dimension, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_BUILD, HNSW_SEARCH
        made |= {"links": HNSW_LINKS, "ef_construction": HNSW_BUILD, "ef_search": HNSW_SEARCH}
    else:
        index, told = _lists(array)
        made |= told
    for start in range(0, count, 65536):
        index.add(np.ascontiguousarray(array[start : start + 65536]))
    faiss.write_index(index, str(path))
    return made | {"recall_at_10": recall(array, index), "recall_sample": min(SAMPLE, count)}


def _lists(array: Floats) -> tuple["faiss.IndexIVFPQ", dict[str, Any]]:
    count, dimension = array.shape
    if count < LEAST_FOR_LISTS:
        raise UserError(
            f"embedder.neighbours=ivfpq needs at least {LEAST_FOR_LISTS:,} chunks to learn its lists from, and there are "
            f"{count:,}: use flat, which is exact and fast up to a few hundred thousand"
        )
    lists = int(4 * count**0.5)
    parts = next(parts for parts in range(dimension // 4, 0, -1) if dimension % parts == 0)
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dimension), dimension, lists, parts, 8, faiss.METRIC_INNER_PRODUCT)
    chosen = np.sort(np.random.default_rng(0).choice(count, min(count, 64 * lists), replace=False))
    index.train(np.ascontiguousarray(array[chosen]))
    index.nprobe = PROBES
    return index, {"lists": lists, "probes": PROBES, "bytes_per_vector": parts, "refined": REFINED}


def recall(array: Floats, index: "faiss.Index", search: Callable[..., Any] | None = None) -> float:
    """Share of the ten nearest of some stored vectors, themselves aside, that are found."""
    count = len(array)
    chosen = np.sort(np.random.default_rng(1).choice(count, min(SAMPLE, count), replace=False))
    vectors = search or Vectors(array, index)
    found = total = 0
    for row in chosen:
        query = np.asarray(array[row])
        scores = array @ query
        scores[row] = -2
        nearest = set(np.argpartition(-scores, min(10, count - 1))[:10].tolist()) - {int(row)}
        rows, _ = vectors(query, 11)
        found += len(nearest & set(rows.tolist()))
        total += len(nearest)
    return round(found / total, 4) if total else 1.0

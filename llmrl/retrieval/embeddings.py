"""The vectors of an index's chunks: those there were, those of an ingest that did not end, and those still to be made."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrl.engine import give_back_memory
from llmrl.files import flush
from llmrl.retrieval.embedder import Embedder
from llmrl.retrieval.manifest import Generation
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.store import Store, key_of

WINDOW = 4096
"""Passages that are sorted by length before they are embedded."""
PART = 256
"""Passages that are embedded, and kept in the journal, at a time."""


@dataclass(frozen=True)
class Made:
    array: NDArray[np.float32]  # [N, dimension], in the order of the chunks' ids, on the disk
    embedded: int  # passages that the embedder read


def make_vectors(
    store: Store, embedder: Embedder, path: Path, journal: Path, before: Generation | None, progress: Progress
) -> Made:
    """Write the vectors of all chunks to `path`.

    `before` is an index with vectors of the same embedder. What is embedded is kept in `journal` until the caller removes it,
    so that it need not be done again, whatever ends this.
    """
    with _attached(store.connection, journal, embedder):
        old = _old_vectors(store.connection, before)
        embedded = _embed(store, embedder, progress)
        progress.say("writing vectors")
        return Made(_write(store.connection, old, path, embedder.dimension), embedded)


@contextmanager
def _attached(connection: sqlite3.Connection, journal: Path, embedder: Embedder) -> Iterator[None]:
    """The journal, with what this embedder made, as the schema `journal`, and an empty table `old`."""
    _mend(journal)
    connection.execute("ATTACH ? AS journal", [str(journal)])
    try:
        said = embedder.describe()
        made_with = f"{said['weights_sha256']} {said['passage_prefix']}"
        connection.execute("CREATE TABLE IF NOT EXISTS journal.of (embedder TEXT)")
        if connection.execute("SELECT embedder FROM journal.of").fetchone() != (made_with,):
            connection.execute("DROP TABLE IF EXISTS journal.vectors")
            connection.execute("DELETE FROM journal.of")
            connection.execute("INSERT INTO journal.of VALUES (?)", [made_with])
        connection.execute("CREATE TABLE IF NOT EXISTS journal.vectors (key BLOB PRIMARY KEY, vector BLOB, sha256 BLOB)")
        connection.execute("CREATE TEMP TABLE old (key BLOB PRIMARY KEY, row INTEGER)")
        connection.commit()
        yield
    finally:
        connection.commit()
        connection.execute("DROP TABLE IF EXISTS temp.old")
        connection.commit()
        connection.execute("DETACH journal")


def _mend(journal: Path) -> None:
    """Leave of the journal of an ingest that did not end what is as it was written; a file that is no database goes."""
    if not journal.exists():
        return
    try:
        with closing(sqlite3.connect(journal)) as connection:
            if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("damaged")
            rows = connection.execute("SELECT key, vector, sha256 FROM vectors")
            bad = [(key,) for key, vector, digest in rows if _row(key, vector)[2] != digest]
            connection.executemany("DELETE FROM vectors WHERE key = ?", bad)
            connection.commit()
    except (sqlite3.DatabaseError, TypeError):  # cut off, no database, or without the table
        journal.unlink()


def _row(key: bytes, vector: bytes) -> tuple[bytes, bytes, bytes]:
    return key, vector, hashlib.sha256(key + vector).digest()


def _old_vectors(connection: sqlite3.Connection, before: Generation | None) -> Any:
    """The vectors of the index before, their rows in the table `old`."""
    if before is None:
        return None
    with closing(Store(before.folder / "chunks.sqlite")) as store:
        rows = ((key, row) for row, key in enumerate(store.keys()))
        connection.executemany("INSERT OR IGNORE INTO old VALUES (?, ?)", rows)
    connection.commit()
    return np.load(before.folder / "vectors.npy", mmap_mode="r", allow_pickle=False)


def _embed(store: Store, embedder: Embedder, progress: Progress) -> int:
    """Put into the journal what is neither there nor in the index before. Returns how many passages that were."""
    connection, embedded = store.connection, 0
    wanted = (
        "SELECT min(chunks.id), count(*) FROM chunks WHERE key NOT IN (SELECT key FROM old) "
        "AND key NOT IN (SELECT key FROM journal.vectors)"
    )
    total = connection.execute(f"SELECT count(*) FROM ({wanted} GROUP BY key)").fetchone()[0]
    with progress.chunks(total) as step:
        while rows := connection.execute(f"{wanted} GROUP BY key ORDER BY min(chunks.id) LIMIT {WINDOW}").fetchall():
            texts = store.passages_of([row[0] for row in rows])
            texts.sort(key=lambda text: (len(text), text))
            for start in range(0, len(texts), PART):
                part = texts[start : start + PART]
                made = zip(part, embedder.passages(part), strict=True)
                connection.executemany(
                    "INSERT OR REPLACE INTO journal.vectors VALUES (?, ?, ?)",
                    [_row(key_of(text), vector.tobytes()) for text, vector in made],
                )
                connection.commit()
                give_back_memory()  # every batch has a length of its own
                embedded += len(part)
                step(len(part))
    return embedded


def _write(connection: sqlite3.Connection, old: Any, path: Path, dimension: int) -> NDArray[np.float32]:
    count = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
    if not count:
        np.save(path, np.zeros((0, dimension), dtype=np.float32), allow_pickle=False)
        return np.zeros((0, dimension), dtype=np.float32)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dimension))
    rows = connection.execute(
        "SELECT old.row, journal.vectors.vector FROM main.chunks AS chunks LEFT JOIN old ON old.key = chunks.key "
        "LEFT JOIN journal.vectors ON journal.vectors.key = chunks.key ORDER BY chunks.id"
    )
    for number, (row, vector) in enumerate(rows):
        array[number] = old[row] if row is not None else np.frombuffer(vector, dtype=np.float32)
    array.flush()
    flush(path)
    return array

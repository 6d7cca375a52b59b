"""Documents and chunks in SQLite: ids are never used twice, the same text is stored once.

`files` are what was read, `documents` what they held (a row of a table is a document, too), `texts` what those say, `chunks`
the parts of a text that are found, with their words: to cut them out of a long text would read all of it each time. A chunk's
row in `vectors.npy` is its place among all chunks in the order of their ids.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from llmrl.retrieval.documents import Document

_TABLES = """
CREATE TABLE files (
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, problem TEXT
);
CREATE TABLE texts (id INTEGER PRIMARY KEY AUTOINCREMENT, sha256 TEXT NOT NULL UNIQUE, text TEXT NOT NULL);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, file TEXT NOT NULL REFERENCES files(name),
    text_id INTEGER NOT NULL REFERENCES texts(id), title TEXT NOT NULL, metadata TEXT NOT NULL
);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, text_id INTEGER NOT NULL REFERENCES texts(id), start INTEGER NOT NULL,
    "end" INTEGER NOT NULL, heading TEXT NOT NULL, above TEXT NOT NULL, text TEXT NOT NULL, key BLOB NOT NULL
);
CREATE INDEX documents_of_file ON documents(file);
CREATE INDEX documents_of_text ON documents(text_id);
CREATE INDEX chunks_of_text ON chunks(text_id);
"""


@dataclass(frozen=True)
class Only:
    """Which documents may be found: all of these must fit."""

    path: str | None = None  # a pattern, as in 'howto/*.md'
    where: Mapping[str, str] = field(default_factory=dict)  # metadata that say so
    paths: Sequence[str] = ()  # one of these

    @property
    def is_all(self) -> bool:
        return self.path is None and not self.where and not self.paths

    def condition(self) -> tuple[str, list[str]]:
        """(SQL about a row of documents, its values)"""
        conditions, values = ["1"], list[str]()
        if self.path is not None:
            conditions.append("documents.path GLOB ?")
            values.append(self.path)
        for name, value in self.where.items():
            conditions.append("EXISTS (SELECT 1 FROM json_each(documents.metadata) WHERE key = ? AND value = ?)")
            values += [name, value]
        if self.paths:
            conditions.append(f"documents.path IN ({','.join('?' * len(self.paths))})")
            values += self.paths
        return " AND ".join(conditions), values


EVERYTHING = Only()


@dataclass(frozen=True)
class StoredChunk:
    """A chunk with the document it is told to be of: where several say the same, the first by path that may be found."""

    id: int
    path: str
    title: str
    heading: str
    start: int  # characters into the document's text
    end: int
    text: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class FileState:
    sha256: str
    size: int
    modified_ns: int
    problem: str | None  # why nothing of it is in the index


def key_of(passage: str) -> bytes:
    """What an embedding is kept under: the same passage, the same vector."""
    return hashlib.sha256(passage.encode("utf-8", errors="surrogatepass")).digest()


class Store:
    """One generation's documents and chunks."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        is_new = not path.exists()
        where = f"{path.resolve().as_uri()}?mode={'rwc' if writable else 'ro'}" + ("" if writable else "&immutable=1")
        self.connection = sqlite3.connect(where, uri=True, check_same_thread=False)
        if writable and is_new:
            self.connection.executescript(_TABLES)

    def close(self) -> None:
        self.connection.close()

    # Reading

    def files(self) -> dict[str, FileState]:
        rows = self.connection.execute("SELECT name, sha256, size, modified_ns, problem FROM files")
        return {name: FileState(*rest) for name, *rest in rows}

    def counts(self) -> dict[str, int]:
        tables = ("files", "documents", "texts", "chunks")
        return {table: self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}

    def chunk_ids(self) -> list[int]:
        """In the order of the rows of vectors.npy."""
        return [row[0] for row in self.connection.execute("SELECT id FROM chunks ORDER BY id")]

    def keys(self) -> Iterator[bytes]:
        """What each chunk's embedding is kept under, in the same order."""
        with closing(self.connection.cursor()) as cursor:
            for (key,) in cursor.execute("SELECT key FROM chunks ORDER BY id"):
                yield key

    def passages(self) -> Iterator[str]:
        """What is indexed of each chunk, in the same order: the headings above it, as far as they fit, and its text."""
        with closing(self.connection.cursor()) as cursor:
            for above, text in cursor.execute("SELECT above, text FROM chunks ORDER BY id"):
                yield _passage(above, text)

    def passages_of(self, ids: Sequence[int]) -> list[str]:
        """The same of some chunks, in any order."""
        found = []
        for part in _parts(ids):
            wanted = f"SELECT above, text FROM chunks WHERE id IN ({','.join('?' * len(part))})"
            found += [_passage(above, text) for above, text in self.connection.execute(wanted, part)]
        return found

    def chunks(self, ids: Sequence[int], only: Only = EVERYTHING) -> list[StoredChunk]:
        """The chunks of these ids, in this order, each of a document that may be found."""
        found = {}
        condition, values = only.condition()
        first = f"SELECT id FROM documents WHERE text_id = chunks.text_id AND {condition} ORDER BY path LIMIT 1"
        for part in _parts(ids):
            rows = self.connection.execute(
                'SELECT chunks.id, path, title, heading, start, "end", text, metadata FROM chunks '
                f"JOIN documents ON documents.id = ({first}) WHERE chunks.id IN ({','.join('?' * len(part))})",
                [*values, *part],
            )
            found |= {row[0]: StoredChunk(*row[:-1], metadata=json.loads(row[-1])) for row in rows}
        return [found[number] for number in ids]

    def allowed(self, only: Only) -> set[int] | None:
        """Ids of the chunks of documents that may be found; None where all may."""
        if only.is_all:
            return None
        condition, values = only.condition()
        wanted = f"SELECT DISTINCT chunks.id FROM chunks JOIN documents ON documents.text_id = chunks.text_id WHERE {condition}"
        return {row[0] for row in self.connection.execute(wanted, values)}

    def ids_of(self, paths: Sequence[str]) -> set[int]:
        """Ids of the chunks of these documents."""
        return self.allowed(Only(paths=paths)) or set() if paths else set()

    def paths(self, ids: Iterable[int]) -> dict[int, list[str]]:
        """Every document that a chunk stands in."""
        found = {}
        for number in ids:
            rows = self.connection.execute(
                "SELECT path FROM documents JOIN chunks USING (text_id) WHERE chunks.id = ? ORDER BY path", [number]
            )
            found[number] = [row[0] for row in rows]
        return found

    def documents(self) -> set[str]:
        """The paths of all."""
        return {row[0] for row in self.connection.execute("SELECT path FROM documents")}

    def text_of(self, path: str) -> str | None:
        """The whole text of a document; None where there is none of that path."""
        row = self.connection.execute(
            "SELECT text FROM texts JOIN documents ON text_id = texts.id WHERE path = ?", [path]
        ).fetchone()
        return row[0] if row else None

    # Writing

    def touch_file(self, name: str, state: FileState) -> None:
        """Note a file, new or as it is now."""
        self.connection.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?) ON CONFLICT(name) DO UPDATE SET sha256 = excluded.sha256, "
            "size = excluded.size, modified_ns = excluded.modified_ns, problem = excluded.problem",
            [name, state.sha256, state.size, state.modified_ns, state.problem],
        )

    def text_id(self, document: Document) -> tuple[int, bool]:
        """(id of a document's text, whether it is new here): the same text under other headings is another."""
        said = [document.text, document.title, *(f"{each.start} {each.level} {each.title}" for each in document.headings)]
        digest = hashlib.sha256("\0".join(said).encode("utf-8", errors="surrogatepass")).hexdigest()
        row = self.connection.execute("SELECT id FROM texts WHERE sha256 = ?", [digest]).fetchone()
        if row:
            return row[0], False
        made = self.connection.execute("INSERT INTO texts (sha256, text) VALUES (?, ?)", [digest, document.text]).lastrowid
        assert made is not None
        return made, True

    def add_document(self, file: str, document: Document, text_id: int) -> None:
        self.connection.execute(
            "INSERT INTO documents (path, file, text_id, title, metadata) VALUES (?, ?, ?, ?, ?)",
            [document.name, file, text_id, document.title, json.dumps(document.metadata, ensure_ascii=False)],
        )

    def add_chunk(self, text_id: int, start: int, end: int, heading: str, above: str, text: str) -> None:
        """`text` is what stands from `start` to `end`, `above` what of its headings is indexed with it."""
        self.connection.execute(
            'INSERT INTO chunks (text_id, start, "end", heading, above, text, key) VALUES (?, ?, ?, ?, ?, ?, ?)',
            [text_id, start, end, heading, above, text, key_of(_passage(above, text))],
        )

    def remove_file(self, name: str) -> None:
        """A file and its documents; texts that no document says any more go with `remove_orphans`."""
        self.connection.execute("DELETE FROM documents WHERE file = ?", [name])
        self.connection.execute("DELETE FROM files WHERE name = ?", [name])

    def remove_orphans(self) -> None:
        """Texts and chunks of no document."""
        self.connection.execute("DELETE FROM chunks WHERE text_id NOT IN (SELECT text_id FROM documents)")
        self.connection.execute("DELETE FROM texts WHERE id NOT IN (SELECT text_id FROM documents)")

    def commit(self) -> None:
        self.connection.commit()


def _passage(above: str, text: str) -> str:
    return f"{above}\n{text}" if above else text


def _parts(ids: Sequence[int]) -> Iterator[list[int]]:
    """SQLite takes so many values at once."""
    for start in range(0, len(ids), 500):
        yield list(ids[start : start + 500])

"""What an index says of itself, and how a generation of it takes the place of the one before.

    INDEX/current.json             which generation counts, and the hash of its manifest
    INDEX/generations/000003/      manifest.json, chunks.sqlite, vectors.npy, and what is built of them
    INDEX/journal.sqlite           embeddings of an ingest that has not ended
    INDEX/.lock                    held while one runs

A generation is written under another name, flushed, renamed, and then `current.json` is replaced: whatever happens in between,
the last one is whole. Nothing of it is parsed before its hash is what the manifest says.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llmrl.errors import UserError, one_line
from llmrl.files import flush, replace_json, sha256_of

SCHEMA = 2
CURRENT = "current.json"
GENERATIONS = "generations"


@dataclass
class Manifest:
    """Everything that makes two indexes the same or not, and the hash of every file."""

    retriever: str  # dense, bm25, hybrid or qdrant
    chunker: dict[str, Any]  # max_tokens, overlap_tokens, headings, and what counts tokens
    reading: dict[str, Any]
    embedder: dict[str, Any] | None  # name, sha256 of its weights, dimension, pooling, normalised, prefixes, max_tokens
    words: dict[str, Any] | None  # k1, b, language, stop words, stemming
    neighbours: dict[str, Any] | None  # how vectors are searched; of what is not exact, its recall
    metric: str | None  # of vectors
    counts: dict[str, int] = field(default_factory=dict)  # documents, texts, chunks, tokens
    files: dict[str, str] = field(default_factory=dict)  # name to SHA-256, all but the manifest
    generation: int = 0
    made: str = ""  # when, ISO 8601
    schema: int = SCHEMA

    def settings(self) -> dict[str, Any]:
        """What must not change from one ingest to the next."""
        kept = {"schema", "retriever", "chunker", "reading", "embedder", "words", "metric"}
        return {name: value for name, value in asdict(self).items() if name in kept}


@dataclass(frozen=True)
class Generation:
    """A whole state of an index on the disk."""

    folder: Path
    manifest: Manifest
    sha256: str  # of the manifest, and so of everything


def current(index: Path) -> Generation | None:
    """The generation that counts, unchecked but for its manifest; None where there is no index. Raises UserError."""
    pointer = index / CURRENT
    if not pointer.exists():
        return None
    try:
        said = json.loads(pointer.read_text(encoding="utf-8"))
        name, expected = f"{int(said['generation']):06d}", str(said["manifest_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{pointer} is damaged ({one_line(error)}): {AGAIN}") from None
    folder = index / GENERATIONS / name
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(f"index {index} is damaged: {path} is missing; {AGAIN}")
    found = sha256_of(path)
    if found != expected:
        raise UserError(f"index {index} is damaged: {path} is not the file that was written; {AGAIN}")
    raw: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if raw.get("schema") != SCHEMA:
        raise UserError(
            f"index {index} has schema {raw.get('schema')}, this version of llmrl reads {SCHEMA}: ingest into a new folder, or "
            "with rebuild=true"
        )
    return Generation(folder, Manifest(**{item.name: raw[item.name] for item in fields(Manifest)}), found)


AGAIN = "delete the folder and ingest again"


def checked(index: Path) -> Generation:
    """The generation that counts, every file of it as it was written. Raises UserError naming the file that is not."""
    if not index.is_dir():
        raise UserError(f"index={index}: there is no such folder; make it with python -m llmrl.ingest docs=... index={index}")
    found = current(index)
    if found is None:
        raise UserError(f"index={index} holds no index; make one with python -m llmrl.ingest docs=... index={index}")
    for name, expected in found.manifest.files.items():
        path = found.folder / name
        if not path.is_file():
            raise UserError(f"index {index} is damaged: {path} is missing; {AGAIN}")
        if sha256_of(path) != expected:
            raise UserError(f"index {index} is damaged: {path} is not the file that was written; {AGAIN}")
    return found


def pointer(index: Path) -> bytes | None:
    """What says which generation counts, as it is now: to see whether it has changed."""
    try:
        return (index / CURRENT).read_bytes()
    except OSError:
        return None


def next_number(index: Path) -> int:
    """Of the generation to come: above every one that was, whatever state it is in."""
    numbers = [int(path.name) for path in (index / GENERATIONS).glob("*") if path.name.isdigit()]
    try:
        numbers.append(int(json.loads(pointer(index) or b"{}")["generation"]))
    except (ValueError, KeyError, TypeError):
        pass
    return max(numbers, default=0) + 1


def publish(index: Path, unfinished: Path, manifest: Manifest) -> Generation:
    """Make the folder `unfinished` the generation that counts, and drop those before it."""
    manifest.files = {
        path.relative_to(unfinished).as_posix(): sha256_of(path) for path in sorted(unfinished.rglob("*")) if path.is_file()
    }
    for name in manifest.files:
        flush(unfinished / name)
    replace_json(unfinished / "manifest.json", asdict(manifest))
    digest = sha256_of(unfinished / "manifest.json")
    folder = index / GENERATIONS / f"{manifest.generation:06d}"
    shutil.rmtree(folder, ignore_errors=True)  # of an ingest that was killed just before it counted
    unfinished.rename(folder)
    flush(folder.parent)
    replace_json(index / CURRENT, {"generation": manifest.generation, "manifest_sha256": digest})
    sweep(index, folder.name)
    return Generation(folder, manifest, digest)


def sweep(index: Path, keep: str) -> None:
    """Remove what earlier and broken ingests left."""
    for path in (index / GENERATIONS).iterdir():
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)

"""A folder of documents to an index, or an index brought up to date: what has not changed costs nothing."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llmrl.config import IngestConfig, packaged
from llmrl.errors import UserError, one_line
from llmrl.registry import RETRIEVERS
from llmrl.retrieval.chunks import HEADING_JOINT, cut, word_spans
from llmrl.retrieval.documents import Document, Unreadable
from llmrl.retrieval.embedder import Embedder
from llmrl.retrieval.embeddings import make_vectors
from llmrl.retrieval.manifest import GENERATIONS, Generation, Manifest, checked, current, next_number, publish
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.readers import read
from llmrl.retrieval.scan import Ingested, scan
from llmrl.retrieval.store import FileState, Store
from llmrl.retrieval.vectors import build
from llmrl.retrieval.words import Words

UNFINISHED = ".unfinished"
JOURNAL = "journal.sqlite"
HEADING_TOKENS = 40
"""So many of the tokens an encoder reads are left to the headings above a chunk."""


def ingest(config: IngestConfig, progress: Progress) -> Ingested:
    """Bring the index up to date with the folder. Raises UserError; whatever happens, the last whole index stays usable."""
    begun, docs, index = time.perf_counter(), packaged(config.docs), Path(config.index).expanduser()
    if not docs.is_dir():
        raise UserError(f"docs={config.docs}: there is no such folder")
    if index.resolve().is_relative_to(docs.resolve()):
        raise UserError(f"index={config.index} lies in docs={config.docs}: it would be read as a document; put it elsewhere")
    with _locked(index):
        work = _Ingest(config, docs, index, progress)
        done = work.run()
    done.seconds = time.perf_counter() - begun
    return done


@contextmanager
def _locked(index: Path) -> Iterator[None]:
    index.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(index / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"another ingest is at work in {index}; wait for it to end") from None


class _Ingest:
    def __init__(self, config: IngestConfig, docs: Path, index: Path, progress: Progress) -> None:
        self.config, self.docs, self.index, self.progress = config, docs, index, progress
        retriever: Any = RETRIEVERS.get(config.retriever.name)
        self.embedder = Embedder(config.embedder) if retriever.needs_vectors else None
        self.spans = self.embedder.spans if self.embedder else word_spans
        self.needs_words = retriever.needs_words
        self.before = self._before()
        self.vectors_from = self.before or self._same_embedder()
        self.done = Ingested()
        self.folder = index / GENERATIONS / UNFINISHED

    def run(self) -> Ingested:
        found, done = scan(self.docs, self._known()), self.done
        done.tell(found)
        done.searched_anew = self.before is not None and self._wants_other_neighbours(self.before)
        if not done.is_news and self.before is not None:
            with closing(Store(self.before.folder / "chunks.sqlite")) as store:
                done.tell_of_problems(store)
            return done
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.before is not None:
            shutil.copyfile(self.before.folder / "chunks.sqlite", self.folder / "chunks.sqlite")
        with closing(Store(self.folder / "chunks.sqlite", writable=True)) as store:
            for name in [*found.gone, *(found.names[path] for path in found.changed)]:
                store.remove_file(name)
            files = [(path, found.names[path]) for path in [*found.new, *found.changed]]
            self._read([(path, name, found.states[name]) for path, name in files], store)
            store.remove_orphans()
            store.commit()
            done.tell_of_problems(store)
            manifest = self._manifest(store)
            if self.embedder is not None:
                made = make_vectors(
                    store, self.embedder, self.folder / "vectors.npy", self.index / JOURNAL, self.vectors_from, self.progress
                )
                done.embedded = made.embedded
                manifest.neighbours = build(made.array, self.config.embedder.neighbours, self.folder / "neighbours.faiss")
            if self.needs_words:
                self.progress.say("indexing words")
                Words.build(store.passages(), self.config.words).save(self.folder / "words")
        publish(self.index, self.folder, manifest)
        (self.index / JOURNAL).unlink(missing_ok=True)
        return done

    # Before

    def _before(self) -> Generation | None:
        """The index that is there, if it was made with the same settings. Raises UserError if it was not."""
        if self.config.rebuild:
            return None
        found = current(self.index)
        if found is None:
            return None
        found = checked(self.index)  # what is kept of it was read again
        then, now = found.manifest.settings(), self._settings().settings()
        if then["embedder"] and now["embedder"]:
            then["embedder"]["name"] = now["embedder"]["name"]  # the hash of its weights says which it is, wherever it lies
        if then != now:
            key = next(name for name in now if then[name] != now[name])
            raise UserError(
                f"index {self.index} was made with {_difference(key, then[key], now[key])}: use the same, or another folder, "
                "or rebuild=true"
            )
        return found

    def _same_embedder(self) -> Generation | None:
        """An index that is made anew, if it is whole and its vectors are this embedder's."""
        try:
            found = checked(self.index)
        except UserError:
            return None
        then, now = found.manifest.embedder, self.embedder.describe() if self.embedder else None
        wanted = ("weights_sha256", "passage_prefix", "pooling", "most_tokens", "modules")
        return found if then and now and all(then[key] == now[key] for key in wanted) else None

    def _wants_other_neighbours(self, before: Generation) -> bool:
        there = before.manifest.neighbours
        return there is not None and there["kind"] != self.config.embedder.neighbours.value

    def _known(self) -> dict[str, FileState]:
        if self.before is None:
            return {}
        with closing(Store(self.before.folder / "chunks.sqlite")) as store:
            return store.files()

    def _settings(self) -> Manifest:
        config = self.config
        words = asdict(config.words) | {"language": config.words.language.value} if self.needs_words else None
        return Manifest(
            retriever=config.retriever.name,
            chunker=asdict(config.chunks) | {"counts": "the embedder's tokens" if self.embedder else "words"},
            reading=asdict(config.reading),
            embedder=self.embedder.describe() if self.embedder else None,
            words=words,
            neighbours=None,
            metric="cosine" if self.embedder else None,
        )

    def _manifest(self, store: Store) -> Manifest:
        manifest = self._settings()
        self.done.counts = manifest.counts = store.counts()
        manifest.generation = next_number(self.index)
        manifest.made = datetime.now(UTC).isoformat(timespec="seconds")
        return manifest

    # Reading

    def _read(self, files: Sequence[tuple[Path, str, FileState]], store: Store) -> None:
        with self.progress.files(len(files)) as step:
            for path, name, state in files:
                try:
                    store.connection.execute("SAVEPOINT file")
                    self._read_file(path, name, store)
                    store.touch_file(name, state)
                except Unreadable as error:
                    store.connection.execute("ROLLBACK TO file")
                    store.touch_file(name, FileState(state.sha256, state.size, state.modified_ns, one_line(error)))
                store.connection.execute("RELEASE file")
                step(name)

    def _read_file(self, path: Path, name: str, store: Store) -> None:
        store.touch_file(name, FileState("", 0, 0, None))
        for document in read(path, name, self.config.reading):
            text_id, is_new = store.text_id(document)
            store.add_document(name, document, text_id)
            if is_new:
                self._add_chunks(text_id, document, store)

    def _add_chunks(self, text_id: int, document: Document, store: Store) -> None:
        """Chunks, and what of the headings above each fits into the encoder with it."""
        options, most = self.config.chunks, self.config.chunks.max_tokens
        limit = self.embedder.most_tokens if self.embedder is not None else None
        if limit is not None:
            most = min(most, limit - HEADING_TOKENS if options.headings else limit)
        overlap = min(options.overlap_tokens, (most - 1) // 2)
        for chunk in cut(document.text, document.headings, self.spans, most, overlap):
            text = document.text[chunk.start : chunk.end]
            titles = list(dict.fromkeys(title for title in [document.title, *chunk.headings] if title))
            above = [title for title in titles if title not in text] if options.headings else []
            spare = limit - len(self.spans(text)) if limit is not None else None
            while above and spare is not None and len(self.spans(f"{HEADING_JOINT.join(above)}\n")) > spare:
                above.pop(0)
            store.add_chunk(text_id, chunk.start, chunk.end, HEADING_JOINT.join(titles), HEADING_JOINT.join(above), text)


def _difference(key: str, then: Any, now: Any) -> str:
    if isinstance(then, dict) and isinstance(now, dict):
        name = next(each for each in {**then, **now} if then.get(each) != now.get(each))
        return f"{key}.{name}={then.get(name)}, not {now.get(name)}"
    return f"{key}={'none' if then is None else then if isinstance(then, str | int) else 'some'}, not " + (
        "none" if now is None else f"{now}" if isinstance(now, str | int) else "this one"
    )

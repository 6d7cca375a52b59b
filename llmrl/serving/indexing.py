"""Files that a visitor brought, made into an index of their own."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from llmrl.config import IngestConfig, RetrieverConfig
from llmrl.config.retrieval import DEFAULT_EMBEDDER
from llmrl.models.places import cached_folder
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.scan import Ingested
from llmrl.serving.places import Places
from llmrl.serving.uploads import index_folder, keep_files


def make_index_of_files(
    places: Places, name: str, files: Sequence[tuple[str, bytes]], tell: Callable[[object], None]
) -> Ingested:
    """Keep the files and make the index of that name. Where that fails or finds no text, nothing is left. Raises UserError."""
    folder, whole = index_folder(places, name), False
    try:
        keep_files(folder / "docs", files)
        done = make_index(folder / "docs", folder / "index", tell)
        whole = bool(done.counts["chunks"])
        return done
    finally:
        if not whole:
            shutil.rmtree(folder, ignore_errors=True)


def make_index(docs: Path, index: Path, tell: Callable[[object], None]) -> Ingested:
    """Ingest a folder: by vectors and words where the embedder is on this machine, else by words. Tells (what, done, of)."""
    name = "hybrid" if cached_folder(DEFAULT_EMBEDDER) else "bm25"
    config = IngestConfig(docs=str(docs), index=str(index), retriever=RetrieverConfig(name=name))
    return ingest(config, _Told(tell))


class Quiet(Progress):
    """Progress that nobody sees."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))


class _Told(Quiet):
    """Progress that is told instead of drawn."""

    def __init__(self, tell: Callable[[object], None]) -> None:
        super().__init__()
        self._tell = tell

    def say(self, what: str) -> None:
        self._tell((what, 0, 0))

    @contextmanager
    def _bar(self, what: str, unit: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._tell((f"{what} {unit}", done, total))

        yield advance

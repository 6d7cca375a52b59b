"""Files that a visitor brings, made into an index of their own."""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from llmrl.config import IngestConfig, RetrieverConfig
from llmrl.config.retrieval import DEFAULT_EMBEDDER
from llmrl.errors import UserError
from llmrl.models.places import cached_folder
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.scan import Ingested
from llmrl.serving.places import Places

KINDS = ("txt", "md", "rst", "html", "htm", "pdf", "jsonl", "csv")
FOLDER = "uploads"
MOST_FILES = 50
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,59}")


def index_folder(places: Places, name: str) -> Path:
    """Where an index of that name is made. Raises UserError for a name that is none, or is taken, perhaps by another."""
    if not NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{name[:80]!r} can't name an index: letters, digits, spaces, - and _, at most 60, a letter or digit first"
        )
    folder = places.inside(f"{FOLDER}/{name.strip()}")
    if folder.exists():
        raise UserError(f"there is an index {name!r} already: choose another name")
    return folder


def refuse_if_full(places: Places, coming: int, most_mb: float) -> None:
    """Raises UserError where everything that was uploaded, indexes included, has more than that with `coming` bytes."""
    used = coming + sum(path.stat().st_size for path in (places.outputs / FOLDER).rglob("*") if path.is_file())
    if used > most_mb * 1e6:
        raise UserError(
            f"{used / 1e6:.0f} MB would be uploaded here, and {most_mb:g} are the most: remove some of {FOLDER}/ first"
        )


def check_files(files: Sequence[tuple[str, int]], most_mb: float) -> None:
    """Names and sizes. Raises UserError where there are none or too many, they are too large, or of a kind that is not read."""
    if not files:
        raise UserError("choose at least one file")
    if len(files) > MOST_FILES:
        raise UserError(f"{len(files)} files; {MOST_FILES} at a time are the most that are taken here")
    if sum(size for _, size in files) > most_mb * 1e6:
        raise UserError(f"the files have more than {most_mb:g} MB together, which is the most that is taken here")
    if len({safe_name(name) for name, _ in files}) < len(files):
        raise UserError("two of the files have the same name")


def keep_files(folder: Path, files: Sequence[tuple[str, bytes]]) -> None:
    """Write files into a new folder, by the last part of their names alone. Raises UserError for one that is not read."""
    named = {safe_name(name): data for name, data in files}
    folder.mkdir(parents=True)
    for name, data in named.items():
        (folder / name).write_bytes(data)


def safe_name(name: str) -> str:
    """A file's own name, whatever path it came with. Raises UserError where nothing is left of it, or its kind is not read."""
    own = re.sub(r"[\x00-\x1f\x7f]", "", name.replace("\\", "/")).rsplit("/", 1)[-1].strip().lstrip(".")[-120:]
    kind = own.rpartition(".")[2].lower() if "." in own else ""
    if kind not in KINDS:
        raise UserError(f"{name[:80]!r} is not read: it must be one of {', '.join(KINDS)}; archives are to be unpacked first")
    return own


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

    @contextmanager
    def _bar(self, what: str, unit: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._tell((f"{what} {unit}", done, total))

        yield advance

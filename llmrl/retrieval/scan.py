"""What of a folder is new, changed or gone, against what an index knows of it; no model is loaded for that."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llmrl.config import IngestConfig, packaged
from llmrl.errors import UserError, one_line
from llmrl.files import sha256_of
from llmrl.models.places import place_of, weights_hash
from llmrl.retrieval.documents import Unreadable
from llmrl.retrieval.manifest import Manifest, checked
from llmrl.retrieval.readers import document_name, find_files
from llmrl.retrieval.store import FileState, Store


@dataclass
class Scan:
    """The files of a folder by their names in the index."""

    names: dict[Path, str] = field(default_factory=dict)
    states: dict[str, FileState] = field(default_factory=dict)  # by name
    new: list[Path] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # name and reason


@dataclass
class Ingested:
    """What an ingest did."""

    counts: dict[str, int] = field(default_factory=dict)  # files, documents, texts, chunks in the index
    added: int = 0  # files
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    embedded: int = 0  # chunks that the embedder read
    searched_anew: bool = False  # the vectors are looked through in another way than before
    skipped: list[tuple[str, str]] = field(default_factory=list)  # file and why nothing of it is in the index
    seconds: float = 0.0

    @property
    def is_news(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.searched_anew)

    def tell(self, found: Scan) -> None:
        """What a scan found."""
        self.added, self.changed, self.removed = len(found.new), len(found.changed), len(found.gone)
        self.unchanged = len(found.names) - len(found.new) - len(found.changed)
        self.skipped += found.skipped

    def tell_of_problems(self, store: Store) -> None:
        """How much there is, and which files of it could not be read."""
        self.counts = store.counts()
        self.skipped += [(name, state.problem) for name, state in store.files().items() if state.problem]


def scan(docs: Path, known: Mapping[str, FileState]) -> Scan:
    """The folder as it is now, by the content of its files."""
    files, found = find_files(docs), Scan()
    for path in files.files:
        name = document_name(path, docs)
        try:
            if name in found.states:
                raise Unreadable("another file has this name")
            told = path.stat()
            found.states[name] = FileState(sha256_of(path), told.st_size, told.st_mtime_ns, None)
            found.names[path] = name
        except (OSError, Unreadable) as error:
            found.skipped.append((name, f"can't be read: {getattr(error, 'strerror', None) or one_line(error)}"))
    found.new = [path for path, name in found.names.items() if name not in known]
    found.changed = [
        path for path, name in found.names.items() if name in known and known[name].sha256 != found.states[name].sha256
    ]
    found.gone = sorted(known.keys() - found.states.keys())
    found.skipped += files.skipped
    return found


def nothing_new(config: IngestConfig) -> Ingested | None:
    """What there is to say where an ingest would change nothing; None where it would, or where only an ingest can tell."""
    docs, index = packaged(config.docs), Path(config.index).expanduser()
    if config.rebuild or not docs.is_dir() or index.resolve().is_relative_to(docs.resolve()):
        return None
    try:
        generation = checked(index)
        if not _same_settings(generation.manifest, config):
            return None
    except UserError:
        return None
    done = Ingested()
    with closing(Store(generation.folder / "chunks.sqlite")) as store:
        done.tell(scan(docs, store.files()))
        done.tell_of_problems(store)
    return None if done.is_news else done


def _same_settings(manifest: Manifest, config: IngestConfig) -> bool:
    """Whether an index is surely of these settings, as far as can be seen without the embedder. Raises UserError."""
    said, chunker = manifest.embedder, {key: value for key, value in manifest.chunker.items() if key != "counts"}
    words = manifest.words
    if manifest.retriever != config.retriever.name or chunker != asdict(config.chunks):
        return False
    if manifest.reading != asdict(config.reading):
        return False
    if words is not None and words != asdict(config.words) | {"language": config.words.language.value}:
        return False
    if said is None:
        return True
    wanted = config.embedder
    prefixes = ((wanted.query_prefix, said["query_prefix"]), (wanted.passage_prefix, said["passage_prefix"]))
    if said["name"] != wanted.name or any(here not in (None, there) for here, there in prefixes):
        return False
    folder = place_of(wanted.name, "embedder", "embedder.name", "")
    same = manifest.neighbours is not None and manifest.neighbours["kind"] == wanted.neighbours.value
    return same and weights_hash(folder) == said["weights_sha256"]

"""Retrieval: documents, chunks, what is searched and how, and the commands that ingest, ask and evaluate."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from llmrl.config.checks import absolute_if_there, at_least, between, refuse
from llmrl.errors import UserError
from llmrl.registry import RETRIEVERS

DEFAULT_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"


class Neighbours(Enum):
    """How the nearest vectors are looked for."""

    flat = "flat"
    hnsw = "hnsw"
    ivfpq = "ivfpq"


class Fusion(Enum):
    blend = "blend"
    rrf = "rrf"


class Language(Enum):
    """Languages with a list of stop words and a stemmer; none: words are taken as they are."""

    none = "none"
    english = "english"
    german = "german"
    french = "french"
    spanish = "spanish"
    italian = "italian"
    portuguese = "portuguese"
    dutch = "dutch"
    swedish = "swedish"
    norwegian = "norwegian"
    danish = "danish"


@dataclass
class ReadingConfig:
    """How files become text."""

    text_field: str = "text"  # jsonl and csv: the key or column that holds the text; each row is a document
    title_field: str = "title"  # jsonl and csv: the key or column of the title, if there is one
    max_file_mb: float = 100.0  # larger files are left out and told of

    def __post_init__(self) -> None:
        if not self.max_file_mb > 0:
            raise refuse("reading.max_file_mb", self.max_file_mb, "it must be above 0")


@dataclass
class ChunksConfig:
    """How documents are cut. Part of what makes an index: another setting is another index."""

    max_tokens: int = 100  # of the embedder's own tokenizer, its special tokens aside; cut to what the encoder reads
    overlap_tokens: int = 20  # whole sentences of the chunk before that are said again; less than half of max_tokens
    headings: bool = True  # the title and headings above a chunk are embedded and indexed with it

    def __post_init__(self) -> None:
        at_least("chunks.max_tokens", self.max_tokens, 8)
        at_least("chunks.overlap_tokens", self.overlap_tokens, 0)
        if 2 * self.overlap_tokens >= self.max_tokens:
            raise refuse("chunks.overlap_tokens", self.overlap_tokens, f"it must be below half of {self.max_tokens}")


@dataclass
class EmbedderConfig:
    """The model that makes vectors of chunks and questions. Part of what makes an index."""

    name: str = DEFAULT_EMBEDDER  # hub name or folder of a sentence-transformers model
    query_prefix: str | None = None  # put before each question; null: what the model says of itself
    passage_prefix: str | None = None  # put before each chunk; null: what the model says of itself
    neighbours: Neighbours = Neighbours.flat  # flat is exact; hnsw, ivfpq for a million chunks: their recall is in the manifest

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError("embedder.name is empty: give a hub name or a folder")
        self.name = absolute_if_there(self.name)


@dataclass
class WordsConfig:
    """How words are looked up. Part of what makes an index."""

    k1: float = 1.2  # how soon a word said again stops counting
    b: float = 0.75  # how much long chunks are held back, in [0, 1]
    language: Language = Language.english  # of stop words and stemmer; none: words are taken as they are
    stop_words: bool = True  # leave out the language's commonest words
    stemming: bool = True  # cut words to their stems

    def __post_init__(self) -> None:
        at_least("words.k1", self.k1, 0)
        between("words.b", self.b, 0, 1)


@dataclass
class RetrieverConfig:
    """What is searched, and how its results are ordered."""

    name: str = "none"  # a registered retriever; auto: what the index was made for
    index: str | None = None  # a folder made by llmrl.ingest
    k: int = 4  # chunks found for each question
    candidates: int = 100  # chunks that fusion, diversity and reranker choose from
    fusion: Fusion = Fusion.blend  # hybrid: standardised scores added by weight, or reciprocal ranks
    dense_weight: float = 0.8  # hybrid: share of the vectors' half, in [0, 1]
    rrf_k: float = 60.0  # hybrid, rrf: what is added to each rank
    mmr: float = 1.0  # weight of relevance against likeness to what was chosen (maximal marginal relevance); 1: off
    reranker: str | None = None  # a cross-encoder, hub name or folder, that orders the candidates anew
    min_score: float | None = None  # chunks below are left out: by cosine; with bm25, by its own score
    path: str | None = None  # only documents whose path fits this pattern, as in 'howto/*.md'
    where: dict[str, str] = field(default_factory=dict)  # only documents whose metadata say so: '{author: Ann}'
    embedder: str | None = None  # where the index's embedder lies now; null: where it was
    url: str | None = None  # qdrant: a server, as in http://localhost:6333; null: held in memory

    def __post_init__(self) -> None:
        RETRIEVERS.check(self.name)
        for name in ("k", "candidates"):
            at_least(f"retriever.{name}", getattr(self, name), 1)
        for name in ("dense_weight", "mmr"):
            between(f"retriever.{name}", getattr(self, name), 0, 1)
        at_least("retriever.rrf_k", self.rrf_k, 0)
        for name in ("index", "embedder", "reranker"):
            if (value := getattr(self, name)) is not None:
                if not value.strip():
                    raise UserError(f"retriever.{name} is empty")
                setattr(self, name, absolute_if_there(value))
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise UserError(f"retriever.url={self.url} is no address of a server: give one as in http://localhost:6333")
        if self.url is not None and self.name not in ("qdrant", "auto"):
            raise UserError(f"retriever.url={self.url} is for retriever=qdrant, not {self.name}")


@dataclass
class PromptingConfig:
    """How a question and what was found for it become a prompt."""

    instruction: str = ""  # what the model is told to do
    source: str = "[{number}] {text}"  # each chunk: {number}, {path}, {heading}, {text}
    question: str = "{question}"  # what comes after the sources: {question}
    answer: str = ""  # where the model goes on, if it has no chat template
    nothing_found: str = ""  # stands in place of the sources where there are none
    chat: bool = True  # use the model's chat template where it has one

    def __post_init__(self) -> None:
        known = {"source": dict.fromkeys(("number", "path", "heading", "text"), ""), "question": {"question": ""}}
        for name, wanted in (("source", "{text}"), ("question", "{question}")):
            if wanted not in getattr(self, name):
                raise UserError(f"prompting.{name} must hold {wanted}")
            try:
                getattr(self, name).format(**known[name])
            except (KeyError, IndexError, ValueError):
                fields = ", ".join(f"{{{field}}}" for field in known[name])
                raise UserError(
                    f"prompting.{name}={getattr(self, name)!r} can't be filled in: it may hold {fields}, and {{{{ for a brace"
                ) from None


class ContextKind(Enum):
    """What stands in a prompt beside the question."""

    retrieved = "retrieved"
    gold = "gold"
    removed = "removed"
    shuffled = "shuffled"
    none = "none"


@dataclass
class ContextConfig:
    """With a retriever: what stands in the prompts that are trained on, by weight. Each prompt keeps its kind."""

    retrieved: float = 1.0  # what the retriever finds
    gold: float = 0.0  # the chunk that answers, among others that the retriever finds
    removed: float = 0.0  # what the retriever finds, without the documents that answer
    shuffled: float = 0.0  # what was found for another question
    none: float = 0.0  # no source
    held_out: ContextKind = ContextKind.retrieved  # what held-out prompts are given, all of them

    def __post_init__(self) -> None:
        for kind in ContextKind:
            at_least(f"context.{kind.value}", self.weights()[kind], 0)
        if not sum(self.weights().values()) > 0:
            raise UserError("every weight of context is 0: give one of retrieved, gold, removed, shuffled, none")

    def weights(self) -> dict[ContextKind, float]:
        """In the order of the kinds."""
        return {kind: getattr(self, kind.value) for kind in ContextKind}


@dataclass
class IngestConfig:
    """Make an index of a folder of documents, or bring one up to date."""

    docs: str = MISSING  # a folder of txt, md, rst, html, pdf, jsonl, csv; packaged:demo/docs is there to try
    index: str = MISSING  # the folder of the index
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    chunks: ChunksConfig = field(default_factory=ChunksConfig)
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    words: WordsConfig = field(default_factory=WordsConfig)
    rebuild: bool = False  # start anew where the index was made with other settings
    threads: int = 0  # processor threads; 0: leave it to torch

    def __post_init__(self) -> None:
        at_least("threads", self.threads, 0)
        if self.retriever.name in ("none", "auto"):
            raise UserError("ingest makes an index for one of retriever=hybrid, dense, bm25, qdrant")


@dataclass
class EvaluateRetrievalConfig:
    """Search with a file of questions whose documents are known."""

    index: str = MISSING  # a folder made by llmrl.ingest
    questions: str = MISSING  # JSON lines: `question`, and `path` (or `paths`) of the documents that answer it
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    at: list[int] = field(default_factory=lambda: [1, 3, 10])  # ranks that recall and nDCG are cut at
    out: str | None = None  # write the figures and every question's ranks here, as JSON
    threads: int = 0  # processor threads; 0: leave it to torch

    def __post_init__(self) -> None:
        at_least("threads", self.threads, 0)
        if not self.at or min(self.at) < 1:
            raise refuse("at", self.at, "it must be a list of ranks from 1, as in at=[1,10]")

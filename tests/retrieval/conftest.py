"""A small corpus, and the real embedder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llmrl.config import ChunksConfig, EmbedderConfig, IngestConfig, RetrieverConfig
from llmrl.models.places import cache_folder
from llmrl.retrieval import embeddings
from llmrl.retrieval.embedder import Embedder
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.scan import Ingested
from tests.retrieval import quiet

MINILM = cache_folder() / "sentence-transformers--all-MiniLM-L6-v2"

TEXTS = {
    "tides.md": "# Tides\n\n## Cause\n\nThe Moon pulls the sea towards it. Water heaps up under the Moon.\n\n## Times\n\n"
    "High water comes twice a day, about twelve hours and twenty-five minutes apart.\n",
    "bread.txt": "Yeast turns sugar into gas, and the gas makes the dough rise.\n\nSalt slows the yeast down.\n",
    "sub/rain.md": "# Rain\n\nWarm air holds more water. When it cools, drops form on dust and fall.\n",
}


def write(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return write(tmp_path / "docs", TEXTS)


@pytest.fixture(scope="session")
def minilm() -> str:
    if not (MINILM / "config.json").is_file():
        pytest.fail(f"all-MiniLM-L6-v2 is not in {MINILM}: python scripts/fetch_models.py minilm")
    return str(MINILM)


@pytest.fixture(scope="session")
def embedder(minilm: str) -> Embedder:
    return Embedder(EmbedderConfig(name=minilm))


Make = Callable[..., Ingested]


@pytest.fixture
def make(docs: Path, tmp_path: Path, minilm: str) -> Make:
    """Ingest the corpus as it is now into tmp_path/index."""

    def made(retriever: str = "bm25", *, rebuild: bool = False, max_tokens: int = 40, index: str = "index") -> Ingested:
        config = IngestConfig(
            docs=str(docs), index=str(tmp_path / index), retriever=RetrieverConfig(name=retriever),
            chunks=ChunksConfig(max_tokens=max_tokens, overlap_tokens=max_tokens // 4), rebuild=rebuild,
            embedder=EmbedderConfig(name=minilm),
        )  # fmt: skip
        return ingest(config, Progress(quiet()))

    return made


def cut_off(make: Make, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingest that ends after 12 of its chunks."""
    write(docs, {f"{number}.txt": f"Text number {number} speaks of {number * number} things." for number in range(20)})
    monkeypatch.setattr(embeddings, "PART", 4)
    real, calls = embeddings.Embedder.passages, []

    def breaks(self: object, texts: list[str]) -> object:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(len(texts))
        return real(self, texts)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(embeddings.Embedder, "passages", breaks)
        with pytest.raises(KeyboardInterrupt):
            make("dense")

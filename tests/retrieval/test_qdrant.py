"""Qdrant finds what comparing all vectors finds; a server that is not there is one line."""

import sys
from pathlib import Path

import numpy as np
import pytest

from llmrl.config import RetrieverConfig
from llmrl.errors import UserError
from llmrl.retrieval.search import Searcher
from tests.retrieval.conftest import Make

QUESTIONS = ("How does yeast make dough rise?", "How often is the sea high?", "Why does it rain?")


def searcher(tmp_path: Path, name: str = "auto", **options: object) -> Searcher:
    return Searcher(RetrieverConfig(name=name, index=str(tmp_path / "index"), **options))  # type: ignore[arg-type]


def test_the_same_chunks_and_cosines(make: Make, tmp_path: Path) -> None:
    make("qdrant", max_tokens=20)
    ours, exact = searcher(tmp_path), searcher(tmp_path, "dense")
    assert ours.name == "qdrant"
    assert ours.index.count > 4
    for question in QUESTIONS:
        found, expected = ours.search(question, 100), exact.search(question, 100)
        assert [hit.chunk.id for hit in found] == [hit.chunk.id for hit in expected]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert "vectors" not in vars(ours.index), "the vectors are in this process, too"


def test_ids_that_have_gaps(make: Make, docs: Path, tmp_path: Path) -> None:
    """Chunks that went leave gaps in the ids: a point's id is its chunk's, not its row."""
    make("qdrant")
    (docs / "bread.txt").write_text("Rye needs sourdough.\n", encoding="utf-8")
    make("qdrant")
    ours = searcher(tmp_path)
    assert np.any(np.diff(ours.index.ids) > 1) or ours.index.ids[0] > 1
    assert ours.search("sourdough", 1)[0].chunk.text == "Rye needs sourdough."


def test_filters_diversity_and_least_score(make: Make, tmp_path: Path) -> None:
    make("qdrant", max_tokens=20)
    assert {hit.chunk.path for hit in searcher(tmp_path, path="sub/*.md").search("sea water", 9)} == {"sub/rain.md"}
    assert searcher(tmp_path, path="none/*").search("sea water") == []
    assert searcher(tmp_path, min_score=0.999).search("sea water") == []
    diverse, exact = searcher(tmp_path, mmr=0.3, k=3), searcher(tmp_path, "dense", mmr=0.3, k=3)
    assert [hit.chunk.id for hit in diverse.search("water")] == [hit.chunk.id for hit in exact.search("water")]


def test_an_index_of_nothing(make: Make, docs: Path, tmp_path: Path) -> None:
    for path in docs.rglob("*.*"):
        path.unlink()
    make("qdrant")
    assert searcher(tmp_path).search("anything") == []


def test_an_index_of_words_alone(make: Make, tmp_path: Path) -> None:
    make("bm25")
    with pytest.raises(UserError, match="retriever=qdrant needs vectors"):
        searcher(tmp_path, "qdrant")


def test_a_server_that_is_not_there(make: Make, tmp_path: Path) -> None:
    make("qdrant")
    with pytest.raises(UserError, match=r"Qdrant at http://127\.0\.0\.1:9 failed: .*is the server up"):
        searcher(tmp_path, "qdrant", url="http://127.0.0.1:9")


def test_no_client(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("qdrant")
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(UserError, match=r"pip install 'llmrl\[qdrant\]'"):
        searcher(tmp_path)


@pytest.mark.parametrize(("name", "url"), [("qdrant", "localhost:6333"), ("dense", "http://localhost:6333")])
def test_addresses_that_mean_nothing(name: str, url: str) -> None:
    with pytest.raises(UserError, match=r"retriever\.url="):
        RetrieverConfig(name=name, url=url)

"""Qdrant finds what comparing all vectors finds; a server that is not there is one line."""

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

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


class Server(http.server.BaseHTTPRequestHandler):
    """Qdrant's REST interface, as far as it is used here, in front of its own engine in memory: what goes over the wire."""

    engine = QdrantClient(":memory:")
    keys: ClassVar[list[str | None]] = []

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        self.keys.append(self.headers.get("api-key"))
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "{}")
        _, _, name, *rest = self.path.partition("?")[0].split("/")
        match (self.command, *rest):
            case ("GET", "exists"):
                result: object = {"exists": self.engine.collection_exists(name)}
            case ("PUT",):
                wanted = models.CreateCollection.model_validate(body)
                result = self.engine.create_collection(name, vectors_config=wanted.vectors)
            case ("POST", "points", "count"):
                result = self.engine.count(name, exact=body["exact"]).model_dump()
            case ("PUT", "points"):
                self.engine.upsert(name, models.Batch.model_validate(body["batch"]))
                result = {"operation_id": 1, "status": "completed"}
            case ("POST", "points", "query"):
                asked = models.QueryRequest.model_validate(body)
                found = self.engine.query_points(name, query=asked.query, limit=asked.limit or 10, query_filter=asked.filter)
                result = {"points": [{"id": each.id, "version": 0, "score": each.score} for each in found.points]}
            case _:
                raise NotImplementedError(self.path)
        told = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_PUT = do_POST = answer  # noqa: N815


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_over_the_wire(
    make: Make, docs: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Filled once, found as by comparing all, with the key that the environment holds; another state is another collection."""
    monkeypatch.setenv("QDRANT_API_KEY", "a key")
    make("qdrant", max_tokens=20)
    ours, exact = searcher(tmp_path, url=server), searcher(tmp_path, "dense")
    count = ours.index.count
    assert f"with {count} vectors" in capsys.readouterr().err
    for question in QUESTIONS:
        found, expected = ours.search(question, 100), exact.search(question, 100)
        assert [hit.chunk.id for hit in found] == [hit.chunk.id for hit in expected]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert {hit.chunk.path for hit in searcher(tmp_path, url=server, path="sub/*").search("water", 9)} == {"sub/rain.md"}
    assert "filling" not in capsys.readouterr().err
    (docs / "bread.txt").write_text("Rye needs sourdough.\n", encoding="utf-8")
    make("qdrant", max_tokens=20)
    assert searcher(tmp_path, url=server).search("sourdough", 1)[0].chunk.text == "Rye needs sourdough."
    assert ours.search("How does yeast make dough rise?", 1)[0].chunk.path == "bread.txt"  # the state it was opened in
    assert set(Server.keys) == {"a key"}

"""What must not go unnoticed: a title that changed, an index replaced while it is read, a journal that rotted."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from llmrl.config import EmbedderConfig, IngestConfig, Neighbours, RetrieverConfig
from llmrl.errors import UserError
from llmrl.files import sha256_of
from llmrl.retrieval import ingest as ingesting
from llmrl.retrieval import opened as opening
from llmrl.retrieval import scan as scanning
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.manifest import current
from llmrl.retrieval.opened import OpenIndex
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.scan import nothing_new
from llmrl.retrieval.search import Searcher
from llmrl.retrieval.vectors import Vectors, build
from tests.retrieval import quiet
from tests.retrieval.conftest import Make, cut_off, write


def searcher(tmp_path: Path, name: str = "auto", **options: object) -> Searcher:
    return Searcher(RetrieverConfig(name=name, index=str(tmp_path / "index"), **options))  # type: ignore[arg-type]


def row(title: str) -> dict[str, str]:
    return {"tides.csv": f'title,text\n{title},"Water rises twice a day."\n'}


def test_a_title_that_changes_alone(make: Make, docs: Path, tmp_path: Path) -> None:
    write(docs, row("Tides"))
    make("hybrid")
    write(docs, row("Lunar bulges"))
    done = make("hybrid")
    assert (done.changed, done.embedded) == (1, 1)
    (hit,) = searcher(tmp_path, "bm25").search("lunar")
    assert (hit.chunk.text, hit.chunk.heading, hit.chunk.title) == ("Water rises twice a day.", "Lunar bulges", "Lunar bulges")
    make("hybrid", index="anew")
    anew = Searcher(RetrieverConfig(name="dense", index=str(tmp_path / "anew")))
    question = "What makes the sea rise?"
    assert [(hit.chunk.heading, pytest.approx(hit.score, abs=2e-3)) for hit in anew.search(question)] == [
        (hit.chunk.heading, hit.score) for hit in searcher(tmp_path, "dense").search(question)
    ]


def test_one_text_under_two_titles(make: Make, docs: Path, tmp_path: Path) -> None:
    write(docs, {"a.jsonl": '{"title": "Tides", "text": "It rises."}\n{"title": "Bread", "text": "It rises."}\n'})
    make("bm25")
    for title in ("Tides", "Bread"):
        assert {hit.chunk.title for hit in searcher(tmp_path, path="a.jsonl*").search(title.lower())} == {title}


def test_an_index_replaced_while_it_is_opened(make: Make, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation goes while its vectors are loaded: the next is opened, and nothing is called damaged."""
    make("hybrid")
    write(docs, {"more.txt": "Copper is a metal."})
    real, replaced = opening.Words.load, []

    def load(folder: Path, config: dict) -> object:
        if not replaced:
            replaced.append(True)
            make("hybrid")
        return real(folder, config)

    monkeypatch.setattr(opening.Words, "load", load)
    found = searcher(tmp_path).search("copper")
    assert replaced
    assert found[0].chunk.path == "more.txt"
    assert found[0].scores["bm25"] > 0


def test_words_that_are_gone_are_told_of(make: Make, tmp_path: Path) -> None:
    make("bm25")
    index = OpenIndex(tmp_path / "index")
    shutil.rmtree(index.folder / "words")
    with pytest.raises(UserError, match=r"damaged: .*words is missing"):
        assert index.words


def test_two_names_that_are_not_utf_8(make: Make, docs: Path, tmp_path: Path) -> None:
    import os

    for byte in (b"\xe8", b"\xe9"):
        Path(os.fsdecode(os.fsencode(docs) + b"/caf" + byte + b".txt")).write_text(f"Coffee {byte.hex()} is hot.")
    make("bm25")
    assert {hit.chunk.path for hit in searcher(tmp_path).search("coffee", 9)} == {"caf\\xe8.txt", "caf\\xe9.txt"}


def test_a_file_that_goes_while_the_folder_is_read(make: Make, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = scanning.sha256_of

    def digest(path: Path) -> str:
        if path.name == "bread.txt":
            path.unlink()
        return real(path)

    monkeypatch.setattr(scanning, "sha256_of", digest)
    done = make("bm25")
    assert (done.added, done.skipped) == (2, [("bread.txt", "can't be read: No such file or directory")])


def test_a_filter_names_the_document_that_fits(make: Make, docs: Path, tmp_path: Path) -> None:
    text = (docs / "bread.txt").read_text()
    write(docs, {"copy/bread.txt": text})
    make("hybrid")
    assert {hit.chunk.path for hit in searcher(tmp_path, path="copy/*").search("yeast", 9)} == {"copy/bread.txt"}
    assert {hit.chunk.path for hit in searcher(tmp_path).search("yeast", 1)} == {"bread.txt"}
    assert searcher(tmp_path).search("yeast", 1, paths=["copy/bread.txt"])[0].chunk.path == "copy/bread.txt"


@pytest.mark.parametrize("kind", [Neighbours.hnsw, Neighbours.ivfpq])
def test_a_rare_document_is_found_by_a_filter(kind: Neighbours, tmp_path: Path) -> None:
    """One row, opposite to everything that is near the question: no walk comes by it."""
    rng = np.random.default_rng(0)
    array = rng.normal(size=(12_000, 32)).astype(np.float32)
    array[:, 0] = np.abs(array[:, 0]) + 5
    array[7] = -array[7]
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    build(array, kind, tmp_path / "neighbours.faiss")
    import faiss

    vectors = Vectors(array, faiss.read_index(str(tmp_path / "neighbours.faiss")))
    rows, cosines = vectors(array[8], 5, np.array([7]))
    assert rows.tolist() == [7]
    assert cosines[0] == pytest.approx(float(array[7] @ array[8]), abs=1e-5)


def test_a_vector_that_rotted_in_the_journal(make: Make, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(make, docs, monkeypatch)
    with closing(sqlite3.connect(tmp_path / "index" / ingesting.JOURNAL)) as journal:
        key, vector = journal.execute("SELECT key, vector FROM vectors").fetchone()
        journal.execute("UPDATE vectors SET vector = ? WHERE key = ?", [bytes([vector[0] ^ 1]) + vector[1:], key])
        journal.commit()
    done = make("dense")
    assert done.embedded == OpenIndex(tmp_path / "index").count - 11
    make("dense", index="anew")
    anew, here = OpenIndex(tmp_path / "anew"), OpenIndex(tmp_path / "index")
    assert float((anew.vectors.array * here.vectors.array).sum(-1).min()) > 0.999


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"SQLite format 3\x00" + bytes(100)])
def test_a_journal_that_is_none(
    make: Make, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    cut_off(make, docs, monkeypatch)
    (tmp_path / "index" / ingesting.JOURNAL).write_bytes(content)
    done = make("dense")
    assert done.embedded == OpenIndex(tmp_path / "index").count


def config(docs: Path, tmp_path: Path, minilm: str, **options: object) -> IngestConfig:
    embedder = EmbedderConfig(name=minilm, **options)  # type: ignore[arg-type]
    return IngestConfig(
        docs=str(docs), index=str(tmp_path / "index"), retriever=RetrieverConfig(name="dense"), embedder=embedder
    )


def test_another_way_to_search_is_built_and_nothing_embedded(docs: Path, tmp_path: Path, minilm: str) -> None:
    ingest(config(docs, tmp_path, minilm), Progress(quiet()))
    done = ingest(config(docs, tmp_path, minilm, neighbours=Neighbours.hnsw), Progress(quiet()))
    assert (done.is_news, done.embedded) == (True, 0)
    assert OpenIndex(tmp_path / "index").manifest.neighbours["kind"] == "hnsw"  # type: ignore[index]
    assert not ingest(config(docs, tmp_path, minilm, neighbours=Neighbours.hnsw), Progress(quiet())).is_news


def test_an_embedder_that_moved_is_the_same(docs: Path, tmp_path: Path, minilm: str) -> None:
    ingest(config(docs, tmp_path, minilm), Progress(quiet()))
    moved = shutil.copytree(minilm, tmp_path / "moved")
    write(docs, {"more.txt": "Copper is a metal."})
    assert ingest(config(docs, tmp_path, str(moved)), Progress(quiet())).embedded == 1


def test_made_anew_with_what_was_embedded(make: Make, docs: Path, tmp_path: Path) -> None:
    make("dense")
    assert make("hybrid", rebuild=True).embedded == 0
    assert make("hybrid", rebuild=True, max_tokens=20).embedded > 0


@pytest.mark.parametrize("what", ["schema", "manifest", "pointer", "vectors"])
def test_making_anew_mends(make: Make, docs: Path, tmp_path: Path, what: str) -> None:
    make("hybrid")
    generation = current(tmp_path / "index")
    assert generation is not None
    pointer, manifest = tmp_path / "index" / "current.json", generation.folder / "manifest.json"
    if what == "schema":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 99}))
        digest = sha256_of(manifest)
        pointer.write_text(json.dumps(json.loads(pointer.read_text()) | {"manifest_sha256": digest}))
    elif what == "manifest":
        manifest.write_text("{")
    elif what == "pointer":
        pointer.write_text("nonsense")
    else:
        (generation.folder / "vectors.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged|schema"):
        make("hybrid")
    make("hybrid", rebuild=True)
    now = current(tmp_path / "index")
    assert now is not None
    assert now.manifest.generation > generation.manifest.generation
    assert searcher(tmp_path).search("yeast")[0].chunk.path == "bread.txt"


def test_diversity_by_hand(make: Make, docs: Path, tmp_path: Path) -> None:
    """Each choice maximises w x relevance - (1 - w) x the greatest likeness to those before."""
    write(docs, {"yeast.txt": "Yeast turns sugar into gas, and that gas makes the dough rise."})
    make("dense", max_tokens=20)
    exact = searcher(tmp_path, k=100).search("What makes dough rise?")
    index = searcher(tmp_path).index
    vectors = {hit.chunk.id: index.vectors.array[index.ids.tolist().index(hit.chunk.id)] for hit in exact}
    scores = {hit.chunk.id: hit.score for hit in exact}
    low, span = min(scores.values()), max(scores.values()) - min(scores.values())
    chosen: list[int] = []
    while len(chosen) < 4:
        rest = [number for number in scores if number not in chosen]
        value = {
            number: 0.5 * (scores[number] - low) / span
            - 0.5 * max((float(vectors[number] @ vectors[other]) for other in chosen), default=0.0)
            for number in rest
        }
        chosen.append(max(rest, key=lambda number: value[number]))
    found = searcher(tmp_path, k=4, mmr=0.5).search("What makes dough rise?")
    assert [hit.chunk.id for hit in found] == chosen
    assert chosen != [hit.chunk.id for hit in exact[:4]]


LIGHT = """
import sys
from llmrl.config import ChunksConfig, EmbedderConfig, IngestConfig, RetrieverConfig
from llmrl.retrieval.scan import nothing_new

docs, index, minilm = sys.argv[1:]
config = IngestConfig(docs=docs, index=index, retriever=RetrieverConfig(name="hybrid"),
                      chunks=ChunksConfig(max_tokens=40, overlap_tokens=10), embedder=EmbedderConfig(name=minilm))
done = nothing_new(config)
print(done is not None and (done.unchanged, done.counts["documents"]), "torch" in sys.modules)
"""


def test_nothing_new_is_told_without_loading_a_model(make: Make, docs: Path, tmp_path: Path, minilm: str) -> None:
    def told() -> str:
        words = [sys.executable, "-c", LIGHT, str(docs), str(tmp_path / "index"), minilm]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout.strip()

    assert told() == "False False"  # there is no index
    make("hybrid")
    assert told() == "(3, 3) False"
    (docs / "bread.txt").unlink()
    assert told() == "False False"


@pytest.mark.parametrize(
    "change", [{"neighbours": Neighbours.hnsw}, {"passage_prefix": "passage: "}, {"query_prefix": "query: "}]
)
def test_other_settings_are_for_an_ingest_to_tell(docs: Path, tmp_path: Path, minilm: str, change: dict) -> None:
    ingest(config(docs, tmp_path, minilm), Progress(quiet()))
    same = nothing_new(config(docs, tmp_path, minilm))
    assert same is not None
    assert (same.unchanged, same.counts) == (3, OpenIndex(tmp_path / "index").manifest.counts)
    assert nothing_new(config(docs, tmp_path, minilm, **change)) is None
    other = config(docs, tmp_path, minilm)
    other.chunks.max_tokens = 50
    assert nothing_new(other) is None

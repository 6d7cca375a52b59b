"""Indexes that are made, brought up to date, damaged and killed."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrl.config import RetrieverConfig
from llmrl.errors import UserError
from llmrl.files import sha256_of
from llmrl.retrieval import ingest as ingesting
from llmrl.retrieval import scan as scanning
from llmrl.retrieval.embedder import Embedder
from llmrl.retrieval.manifest import current
from llmrl.retrieval.opened import OpenIndex
from llmrl.retrieval.search import Searcher
from tests.retrieval.conftest import TEXTS, Make, cut_off, write


def opened(tmp_path: Path) -> OpenIndex:
    return OpenIndex(tmp_path / "index")


def contents(index: OpenIndex) -> set[tuple[str, int, int, str]]:
    return {(chunk.path, chunk.start, chunk.end, chunk.text) for chunk in index.store.chunks(index.ids.tolist())}


def test_every_chunk_is_what_stands_there(make: Make, tmp_path: Path) -> None:
    make("hybrid")
    index = opened(tmp_path)
    assert {path for path, *_ in contents(index)} == set(TEXTS)
    for path, start, end, text in contents(index):
        assert TEXTS[path][start:end] == text
    assert index.vectors.array.shape == (index.count, 384)
    assert np.allclose(np.linalg.norm(index.vectors.array, axis=1), 1, atol=1e-5)


def test_a_second_ingest_changes_nothing(make: Make, tmp_path: Path) -> None:
    first = make("hybrid")
    assert first.added == 3
    assert first.embedded == opened(tmp_path).count
    before = current(tmp_path / "index")
    second = make("hybrid")
    assert (second.unchanged, second.embedded, second.is_news) == (3, 0, False)
    assert current(tmp_path / "index") == before


def test_only_what_changed_is_embedded(make: Make, docs: Path, tmp_path: Path) -> None:
    make("hybrid")
    index = opened(tmp_path)
    ids = {chunk.text: chunk.id for chunk in index.store.chunks(index.ids.tolist())}
    vectors = {chunk.text: index.vectors.array[row].copy() for row, chunk in enumerate(index.store.chunks(index.ids.tolist()))}
    (docs / "tides.md").write_text(TEXTS["tides.md"].replace("twice a day", "two times a day"), encoding="utf-8")
    (docs / "bread.txt").unlink()
    done = make("hybrid")
    assert (done.added, done.changed, done.removed, done.unchanged, done.embedded) == (0, 1, 1, 1, 1)
    now = opened(tmp_path)
    assert {path for path, *_ in contents(now)} == {"tides.md", "sub/rain.md"}
    for row, chunk in enumerate(now.store.chunks(now.ids.tolist())):
        if chunk.path == "tides.md":
            assert chunk.id > max(ids.values())  # ids are never used twice
        else:
            assert chunk.id == ids[chunk.text]
        if chunk.text in vectors:
            assert np.array_equal(now.vectors.array[row], vectors[chunk.text])
    assert "two times a day" in "".join(text for *_, text in contents(now))


def test_the_same_as_made_at_once(make: Make, docs: Path, tmp_path: Path) -> None:
    """After additions, changes and removals an index holds what one made anew holds."""
    make("hybrid")
    write(docs, {"new/stars.txt": "Stars shine because hydrogen fuses in them.", "bread.txt": "Bread.\n\nSalt."})
    (docs / "sub/rain.md").unlink()
    make("hybrid")
    make("hybrid", index="anew")
    anew = OpenIndex(tmp_path / "anew")
    assert contents(opened(tmp_path)) == contents(anew)
    by_text = {chunk.text: row for row, chunk in enumerate(anew.store.chunks(anew.ids.tolist()))}
    now = opened(tmp_path)
    for row, chunk in enumerate(now.store.chunks(now.ids.tolist())):
        assert float(now.vectors.array[row] @ anew.vectors.array[by_text[chunk.text]]) > 0.999


def test_no_passage_is_longer_than_the_encoder_reads(make: Make, docs: Path, tmp_path: Path, embedder: Embedder) -> None:
    """Headings above a chunk give way, the highest first."""
    heading = "Of the many and various causes, " * 12
    text = "".join(f"{'#' * level} {level} {heading}\n\n" for level in (1, 2, 3)) + "Water heaps up below the Moon. " * 120
    write(docs, {"long.md": text})
    make("hybrid", max_tokens=400)
    passages = list(opened(tmp_path).store.passages())
    assert max(len(embedder.spans(passage)) for passage in passages) <= embedder.most_tokens
    assert any("\n" in passage and "3 Of the many" in passage for passage in passages)


def test_the_same_text_twice_is_stored_once(make: Make, docs: Path, tmp_path: Path) -> None:
    write(docs, {"copy/bread.txt": TEXTS["bread.txt"]})
    done = make("hybrid")
    assert (done.counts["documents"], done.counts["texts"]) == (4, 3)
    index = opened(tmp_path)
    bread = next(chunk for chunk in index.store.chunks(index.ids.tolist()) if chunk.path == "bread.txt")
    assert index.store.paths([bread.id])[bread.id] == ["bread.txt", "copy/bread.txt"]
    (docs / "bread.txt").unlink()
    assert make("hybrid").embedded == 0
    assert opened(tmp_path).store.chunks([bread.id])[0].path == "copy/bread.txt"


def test_a_file_that_can_not_be_read_is_told_of_every_time(make: Make, docs: Path, tmp_path: Path) -> None:
    (docs / "noise.txt").write_bytes(bytes(range(256)) * 4)
    for _ in range(2):
        assert [name for name, _ in make().skipped] == ["noise.txt"]
    assert "noise.txt" not in {path for path, *_ in contents(opened(tmp_path))}


def test_an_empty_folder_and_an_index_of_nothing(make: Make, docs: Path, tmp_path: Path) -> None:
    shutil.rmtree(docs)
    docs.mkdir()
    assert make("hybrid").counts["chunks"] == 0
    assert Searcher(RetrieverConfig(name="auto", index=str(tmp_path / "index"))).search("anything") == []
    write(docs, TEXTS)
    assert make("hybrid").added == 3


def test_other_settings_are_refused_until_rebuilt(make: Make, tmp_path: Path) -> None:
    make()
    with pytest.raises(UserError, match=r"chunker\.max_tokens=40, not 30.*rebuild=true"):
        make(max_tokens=30)
    with pytest.raises(UserError, match="retriever=bm25, not hybrid"):
        make("hybrid")
    make("hybrid", rebuild=True)
    assert opened(tmp_path).manifest.retriever == "hybrid"


def test_two_at_once(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def second(folder: Path) -> object:
        if not seen:
            seen.append(True)
            with pytest.raises(UserError, match="another ingest is at work"):
                make()
        return real(folder)

    real = scanning.find_files
    monkeypatch.setattr(scanning, "find_files", second)
    make()
    assert seen


def damaged(index: Path, name: str, content: bytes) -> None:
    generation = current(index)
    assert generation is not None
    (generation.folder / name).write_bytes(content)


@pytest.mark.parametrize("name", ["vectors.npy", "chunks.sqlite", "words/vocab.index.json", "manifest.json"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "pickle", "gone"])
def test_a_damaged_file_is_named_and_never_parsed(make: Make, tmp_path: Path, name: str, how: str) -> None:
    make("hybrid")
    generation = current(tmp_path / "index")
    assert generation is not None
    path = generation.folder / name
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "truncated": content[:middle],
                "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "pickle": pickle.dumps({"run": "me"}),
            }[how]
        )
    with pytest.raises(UserError, match=f"damaged: .*{Path(name).name} is "):
        opened(tmp_path)
    if name != "manifest.json":
        write(tmp_path / "docs", {"more.txt": "More."})
        with pytest.raises(UserError, match="damaged"):
            make("hybrid")


def test_files_of_two_generations(make: Make, docs: Path, tmp_path: Path) -> None:
    make("hybrid")
    first = current(tmp_path / "index")
    assert first is not None
    vectors = (first.folder / "vectors.npy").read_bytes()
    write(docs, {"more.txt": "More is told here."})
    make("hybrid")
    damaged(tmp_path / "index", "vectors.npy", vectors)
    with pytest.raises(UserError, match=r"vectors\.npy is not the file that was written"):
        opened(tmp_path)


def test_another_embedder_than_the_index_has(make: Make, tmp_path: Path, minilm: str) -> None:
    """The same files but for one byte of a weight."""
    make("dense")
    other = tmp_path / "other"
    shutil.copytree(minilm, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    searcher = Searcher(RetrieverConfig(name="auto", index=str(tmp_path / "index"), embedder=str(other)))
    with pytest.raises(UserError, match="is another model"):
        searcher.search("tides")
    moved = tmp_path / "moved"
    shutil.copytree(minilm, moved)
    searcher = Searcher(RetrieverConfig(name="auto", index=str(tmp_path / "index"), embedder=str(moved)))
    assert searcher.search("Why does dough rise?")[0].chunk.path == "bread.txt"


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from llmrl.config import ChunksConfig, EmbedderConfig, IngestConfig, RetrieverConfig
from llmrl.retrieval import embedder, opened  # loaded once; no tensor is made before the fork
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.opened import OpenIndex
from tests.retrieval import quiet

docs, index, minilm = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
config = lambda: IngestConfig(
    docs=str(docs), index=str(index), retriever=RetrieverConfig(name="hybrid"),
    chunks=ChunksConfig(max_tokens=40, overlap_tokens=10), embedder=EmbedderConfig(name=minilm),
)

def forked(work):
    if (pid := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return pid

def check(least):
    opened = OpenIndex(index)
    assert opened.count >= least, (opened.count, least)
    assert opened.vectors.count == opened.count
    opened.words

def grow(number):
    (docs / f"grown-{number}.txt").write_text(f"Document {number} says {number * 7}. " * 20)

grow(0)
assert os.waitpid(forked(lambda: ingest(config(), Progress(quiet()))), 0)[1] == 0
rng, killed = random.Random(7), 0
begun = time.perf_counter()
assert os.waitpid(forked(lambda: ingest(config(), Progress(quiet()))), 0)[1] == 0
for number in range(1, 21):
    grow(number)
    pid = forked(lambda: ingest(config(), Progress(quiet())))
    time.sleep(rng.uniform(0.0, 0.7))
    os.kill(pid, signal.SIGKILL)
    killed += os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert os.waitpid(forked(lambda: check(3)), 0)[1] == 0, f"after kill {number}"
assert os.waitpid(forked(lambda: ingest(config(), Progress(quiet()))), 0)[1] == 0
assert os.waitpid(forked(lambda: check(20)), 0)[1] == 0
print("killed", killed)
"""


@pytest.mark.slow
def test_twenty_kills_leave_an_index_that_works(docs: Path, tmp_path: Path, minilm: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(docs), str(tmp_path / "index"), minilm], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 10  # not all had ended by themselves


def test_what_was_embedded_before_a_kill_is_not_embedded_again(
    make: Make, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(make, docs, monkeypatch)
    assert current(tmp_path / "index") is None
    done = make("dense")
    assert done.embedded == opened(tmp_path).count - 12
    assert not (tmp_path / "index" / ingesting.JOURNAL).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda docs, index: shutil.rmtree(docs), "there is no such folder"),
        (lambda docs, index: index.mkdir(), None),
    ],
)
def test_folders(make: Make, docs: Path, tmp_path: Path, change: object, message: str | None) -> None:
    change(docs, tmp_path / "index")  # type: ignore[operator]
    if message is None:
        assert make().added == 3
    else:
        with pytest.raises(UserError, match=message):
            make()


def test_an_index_among_its_documents_is_refused(make: Make, docs: Path) -> None:
    with pytest.raises(UserError, match="it would be read as a document"):
        make(index="docs/index")


def test_no_index_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such folder; make it with python -m llmrl\.ingest"):
        OpenIndex(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no index"):
        OpenIndex(tmp_path / "empty")


def test_a_schema_of_another_version(make: Make, tmp_path: Path) -> None:
    make()
    generation = current(tmp_path / "index")
    assert generation is not None
    manifest = json.loads((generation.folder / "manifest.json").read_text())
    (generation.folder / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    digest = sha256_of(generation.folder / "manifest.json")
    pointer = tmp_path / "index" / "current.json"
    pointer.write_text(json.dumps(json.loads(pointer.read_text()) | {"manifest_sha256": digest}))
    with pytest.raises(UserError, match="has schema 99"):
        opened(tmp_path)

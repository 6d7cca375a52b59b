"""Files that visitors bring stay where they belong, and what is no document is refused."""

import io
import zipfile
from pathlib import Path

import pytest

from llmrl.config import RetrieverConfig
from llmrl.errors import UserError
from llmrl.retrieval.search import Searcher
from llmrl.serving.indexing import make_index, make_index_of_files
from llmrl.serving.places import Places
from llmrl.serving.uploads import check_files, index_folder, keep_files, refuse_if_full, safe_name
from llmrl.serving.worker import Cancelled


def test_names_lose_their_paths() -> None:
    assert safe_name("../../x.txt") == "x.txt"
    assert safe_name("C:\\secrets\\y.md") == "y.md"
    assert safe_name("/etc/.hidden.txt") == "hidden.txt"
    assert safe_name("a\nb\0.txt") == "ab.txt"
    for name in ("../../x", "bomb.zip", "script.py", "", "..", ".txt/..", "archive.tar.gz"):
        with pytest.raises(UserError, match="is not read"):
            safe_name(name)


def test_an_index_can_not_be_made_elsewhere(tmp_path: Path) -> None:
    places = Places(tmp_path)
    assert index_folder(places, "my docs") == tmp_path / "uploads" / "my docs"
    for name in ("..", "../x", "a/b", "", " ", "a" * 61, "-x", "a..b", "\n"):
        with pytest.raises(UserError, match="can't name an index"):
            index_folder(places, name)


def test_a_name_that_is_taken_and_a_full_disk_are_refused(tmp_path: Path) -> None:
    places = Places(tmp_path)
    refuse_if_full(places, 900_000, 1)
    with pytest.raises(UserError, match="1 MB would be uploaded here, and 1 are the most"):
        refuse_if_full(places, 1_100_000, 1)
    keep_files(index_folder(places, "mine") / "docs", [("a.txt", b"x" * 900_000)])
    with pytest.raises(UserError, match="an index 'mine' already"):
        index_folder(places, "mine")
    refuse_if_full(places, 90_000, 1)
    with pytest.raises(UserError, match="are the most"):
        refuse_if_full(places, 110_000, 1)


def test_files_that_are_refused() -> None:
    good = ("a.txt", 5)
    for files, why in (
        ([], "at least one"), ([good, ("b.zip", 2)], "archives"), ([good, ("b.txt", 500_000_000)], "more than 1 MB"),
        ([good, ("x/a.txt", 5)], "same name"), ([(f"{n}.txt", 1) for n in range(51)], "50 at a time"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=why):
            check_files(files, 1)
    check_files([good, ("b.md", 900_000)], 1)


def test_what_fails_is_stopped_or_has_no_text_leaves_nothing_and_its_name_free(tmp_path: Path) -> None:
    places = Places(tmp_path)

    def stop(told: object) -> None:
        raise Cancelled

    files = [("a.txt", b"The heron waits in the reeds.")]
    with pytest.raises(Cancelled):
        make_index_of_files(places, "mine", files, stop)
    assert not index_folder(places, "mine").exists()
    done = make_index_of_files(places, "mine", [("empty.txt", b" ")], lambda told: None)
    assert done.counts["chunks"] == 0
    assert not index_folder(places, "mine").exists()
    assert make_index_of_files(places, "mine", files, lambda told: None).counts["chunks"] == 1
    assert places.indexes() == ["uploads/mine/index"]


def test_a_zip_bomb_that_is_called_a_text_is_left_out(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(20_000_000))
    keep_files(tmp_path / "docs", [("bomb.txt", bomb.getvalue()), ("good.txt", b"The heron waits in the reeds.")])
    told: list[object] = []
    done = make_index(tmp_path / "docs", tmp_path / "index", told.append)
    assert [name for name, _ in done.skipped] == ["bomb.txt"]
    assert told
    hits = Searcher(RetrieverConfig(name="auto", index=str(tmp_path / "index"))).search("heron")
    assert [hit.chunk.path for hit in hits] == ["good.txt"]

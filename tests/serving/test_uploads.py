"""Files that visitors bring stay where they belong, and what is no document is refused."""

import io
import zipfile
from pathlib import Path

import pytest

from llmrl.config import RetrieverConfig
from llmrl.errors import UserError
from llmrl.retrieval.search import Searcher
from llmrl.serving.places import Places
from llmrl.serving.uploads import index_folder, keep_files, make_index, refuse_if_full, safe_name


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
    refuse_if_full(places, 1)
    keep_files(index_folder(places, "mine") / "docs", [("a.txt", b"x" * 900_000)], 1)
    with pytest.raises(UserError, match="an index 'mine' already"):
        index_folder(places, "mine")
    refuse_if_full(places, 1)
    keep_files(index_folder(places, "more") / "docs", [("a.txt", b"x" * 900_000)], 1)
    with pytest.raises(UserError, match="2 MB were uploaded here, and 1 are the most"):
        refuse_if_full(places, 1)


def test_nothing_is_written_where_one_file_is_refused(tmp_path: Path) -> None:
    good = ("a.txt", b"words")
    for files, why in (
        ([], "at least one"), ([good, ("b.zip", b"PK")], "archives"), ([good, ("b.txt", b"x" * 1_100_000)], "more than 1 MB"),
        ([good, ("x/a.txt", b"other")], "same name"), ([(f"{n}.txt", b"x") for n in range(51)], "50 at a time"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=why):
            keep_files(tmp_path / "docs", files, 1)
    assert not (tmp_path / "docs").exists()


def test_a_zip_bomb_that_is_called_a_text_is_left_out(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(20_000_000))
    keep_files(tmp_path / "docs", [("bomb.txt", bomb.getvalue()), ("good.txt", b"The heron waits in the reeds.")], 1)
    told: list[object] = []
    done = make_index(tmp_path / "docs", tmp_path / "index", told.append)
    assert [name for name, _ in done.skipped] == ["bomb.txt"]
    assert told
    hits = Searcher(RetrieverConfig(name="auto", index=str(tmp_path / "index"))).search("heron")
    assert [hit.chunk.path for hit in hits] == ["good.txt"]

"""What is shown is what lies below the folder, and nothing else."""

import json
from pathlib import Path

import pytest

from llmrl.errors import UserError
from llmrl.serving.places import EXAMPLE_NAME, TINY, Places, read_run


def make(folder: Path, **record: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "model": TINY, "started": "2026", **record}), "utf-8")
    return folder


def test_runs_are_found_newest_first_and_the_example_last(tmp_path: Path) -> None:
    make(tmp_path / "old", started="2026-01-01")
    make(tmp_path / "sweep" / "000_a", started="2026-02-01")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{", encoding="utf-8")
    found = Places(tmp_path).runs()
    assert [run.name for run in found] == ["sweep/000_a", "old", EXAMPLE_NAME]
    assert found[-1].verdict == "improved"
    assert found[-1].has_model
    assert not found[0].has_model


def test_a_run_that_was_killed_is_not_shown_as_running(tmp_path: Path) -> None:
    path = make(tmp_path / "run", status="running")
    run = read_run("run", path)
    assert run is not None
    assert run.status == "interrupted"
    assert read_run("gone", tmp_path / "gone") is None


def test_nothing_outside_is_shown(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere" / "secret")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    (outputs / "link").symlink_to(tmp_path / "elsewhere")
    places = Places(outputs)
    assert [run.name for run in places.runs()] == [EXAMPLE_NAME]
    for name in ("../elsewhere/secret", "/etc/passwd", "link/secret", "a/../../elsewhere"):
        with pytest.raises(UserError, match="is not below"):
            places.inside(name)
    assert places.inside("mine/index") == outputs / "mine" / "index"


def test_only_bases_that_need_no_download_are_offered(tmp_path: Path) -> None:
    make(tmp_path / "run", model="some/model-nobody-has")
    (tmp_path / "run" / "final").mkdir()
    (tmp_path / "run" / "final" / "config.json").write_text("{}", encoding="utf-8")
    places = Places(tmp_path)
    assert TINY in places.bases(places.runs())
    assert "some/model-nobody-has" not in places.bases(places.runs())

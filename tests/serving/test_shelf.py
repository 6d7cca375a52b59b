"""Models and indexes are loaded once, and dropped when memory is short."""

import shutil
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmrl.config import ModelConfig, RetrieverConfig, packaged
from llmrl.errors import UserError
from llmrl.models.load import fingerprint
from llmrl.serving.shelf import Shelf, memory

TINY = ModelConfig(name_or_path="packaged:tiny")


@pytest.fixture
def twin(tmp_path: Path) -> ModelConfig:
    """Another model of the same kind."""
    shutil.copytree(packaged("packaged:tiny"), tmp_path / "twin")
    return ModelConfig(name_or_path=str(tmp_path / "twin"))


def test_a_model_is_loaded_once_and_anew_when_its_files_change(twin: ModelConfig) -> None:
    shelf = Shelf()
    first = shelf.language_model(twin)
    assert shelf.language_model(twin) is first
    assert shelf.sha256(twin) == fingerprint(first.model)
    path = Path(twin.name_or_path) / "model.safetensors"
    save_file({name: torch.zeros_like(each) for name, each in load_file(path).items()}, path, metadata={"format": "pt"})
    assert shelf.language_model(twin) is not first
    assert shelf.sha256(twin) != fingerprint(first.model)


def test_the_least_recently_used_is_dropped_when_memory_is_short(twin: ModelConfig) -> None:
    free = [1e12]
    shelf = Shelf(memory=lambda: (free[0], 1e12))
    first = shelf.language_model(TINY)
    free[0] = 0.0
    with pytest.raises(UserError, match="there is no memory for"):
        shelf.language_model(twin)
    assert len(shelf) == 0
    free[0] = 1e12
    assert shelf.language_model(TINY) is not first


def test_no_more_than_so_many_are_kept(twin: ModelConfig) -> None:
    shelf = Shelf(most=1)
    first = shelf.language_model(TINY)
    shelf.language_model(twin)
    assert shelf.sha256(twin) == shelf.sha256(TINY)
    assert len(shelf) == 1
    assert shelf.language_model(TINY) is not first


def test_an_index_is_opened_anew_when_it_was_ingested_into(tmp_path: Path) -> None:
    from llmrl.serving.indexing import make_index

    docs, index = tmp_path / "docs", tmp_path / "index"
    docs.mkdir()
    (docs / "a.txt").write_text("The otter sleeps on its back.", encoding="utf-8")
    make_index(docs, index, lambda told: None)
    shelf, config = Shelf(), RetrieverConfig(name="auto", index=str(index))
    before = shelf.searcher(config)
    assert shelf.searcher(config) is before
    (docs / "b.txt").write_text("A heron stands in the shallows.", encoding="utf-8")
    make_index(docs, index, lambda told: None)
    assert shelf.searcher(config).search("heron")[0].chunk.path == "b.txt"


def test_a_container_has_no_more_than_its_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("400000\n", encoding="ascii")
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 50000\n", encoding="ascii")
    assert memory(tmp_path) == (650_000, 1_000_000)
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    machine = psutil.virtual_memory().total
    for limits in (tmp_path, tmp_path / "none"):
        free, total = memory(limits)
        assert 1_000_000 < free <= total == machine


def test_the_reserve_is_of_the_container_and_not_of_its_machine() -> None:
    assert Shelf(memory=lambda: (2e9, 3e9)).language_model(TINY) is not None
    with pytest.raises(UserError, match="there is no memory for packaged:tiny"):
        Shelf(memory=lambda: (2e9, 19.9e9)).language_model(TINY)


def test_hashes_take_no_room_and_drop_nothing() -> None:
    free = [1e12]
    shelf = Shelf(memory=lambda: (free[0], 1e12))
    model = shelf.language_model(TINY)
    free[0] = 0.0
    assert shelf.sha256(TINY) == fingerprint(model.model)
    assert shelf.language_model(TINY) is model

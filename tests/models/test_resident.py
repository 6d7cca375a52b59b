"""The model that stays in memory between jobs: never handed out, never changed, shared where it is frozen."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llmrl.config import Device, ModelConfig, Precision, packaged
from llmrl.models import resident
from llmrl.models.load import fingerprint, load
from llmrl.models.resident import borrow, forget
from llmrl.models.trainable import frozen_by, train_all


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    forget()
    yield
    forget()


def config(name: str | Path = "packaged:tiny") -> ModelConfig:
    return ModelConfig(name_or_path=str(name), precision=Precision.fp32, device=Device.cpu)


def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with the name of every model that is really read."""
    read: list[str] = []

    def counted(given: ModelConfig):
        read.append(given.name_or_path)
        return load(given)

    monkeypatch.setattr(resident, "load", counted)
    return read


def test_what_one_job_does_to_its_model_the_next_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    read = loads(monkeypatch)
    first, sha256 = borrow(config(), 0)
    assert sha256 == fingerprint(first.model)
    train_all(first)
    with torch.no_grad():
        for parameter in first.model.parameters():
            parameter.add_(1)
    first.model.config.eos_token_id = 7
    first.tokenizer.padding_side = "right"
    second, again = borrow(config(), 0)
    assert again == sha256 == fingerprint(second.model)
    assert second.model.config.eos_token_id != 7
    assert second.tokenizer.padding_side == "left"
    assert all(parameter.requires_grad for parameter in second.model.parameters())
    assert len(read) == 1


def test_layers_that_are_frozen_are_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    read = loads(monkeypatch)
    models = [borrow(config(), 3)[0] for _ in range(2)]
    frozen = [frozen_by(model, 3) for model in models]
    assert frozen[0]
    assert all(one is other for one, other in zip(*frozen, strict=True))
    trained = [[p for p in model.model.parameters() if p not in set(each)] for model, each in zip(models, frozen, strict=True)]
    assert trained[0]
    assert all(one is not other for one, other in zip(*trained, strict=True))
    whole, _ = borrow(config(), 0)
    assert not {id(parameter) for parameter in whole.model.parameters()} & {id(parameter) for parameter in frozen[0]}
    assert len(read) == 1


def test_a_model_whose_files_have_changed_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = loads(monkeypatch)
    folder = tmp_path / "model"
    shutil.copytree(packaged("packaged:tiny"), folder)
    borrow(config(folder), 0)
    borrow(config(folder), 0)
    assert len(read) == 1
    (folder / "model.safetensors").touch()
    borrow(config(folder), 0)
    assert len(read) == 2
    borrow(config(), 0)
    assert len(read) == 3


def test_a_model_that_fills_the_memory_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    read = loads(monkeypatch)
    monkeypatch.setattr(resident.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**7))
    borrow(config(), 0)
    borrow(config(), 0)
    assert len(read) == 2

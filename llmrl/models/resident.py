"""A model that stays in memory from one job of a sweep to the next: read, checked and hashed once, copied for each.

The kept model is never trained and never handed out: a job gets a copy with weights of its own, but those of layers that it
freezes, which all jobs share.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from torch import nn

from llmrl.config import ModelConfig
from llmrl.models.load import LanguageModel, fingerprint, load
from llmrl.models.places import locate
from llmrl.models.trainable import frozen_by

ROOM = 3  # a model is kept where the free memory is that many times its own


@dataclass
class _Kept:
    key: tuple[object, ...]
    model: LanguageModel
    sha256: str


_kept: _Kept | None = None


def borrow(config: ModelConfig, frozen_layers: int) -> tuple[LanguageModel, str]:
    """(a model as `load` gives it, SHA-256 of its weights). The last one asked for is kept, if there is room. Raises UserError.

    With `frozen_layers` the parameters that `freeze_trunk` will freeze are those of every other job, too.
    """
    global _kept
    key = state_of(config)
    if _kept is None or _kept.key != key:
        _kept = None  # before the next takes as much
        loaded = load(config)
        found = _Kept(key, loaded, fingerprint(loaded.model))
        size = sum(parameter.numel() * parameter.element_size() for parameter in loaded.model.parameters())
        if psutil.virtual_memory().available < ROOM * size:
            return loaded, found.sha256
        _kept = found
    shared: dict[int, nn.Parameter] = {}
    if frozen_layers:
        shared = {id(parameter): parameter for parameter in frozen_by(_kept.model, frozen_layers)}
    model = copy.deepcopy(_kept.model.model, shared)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return replace(
        _kept.model, model=model, name=config.name_or_path, tokenizer=copy.deepcopy(_kept.model.tokenizer)
    ), _kept.sha256


def forget() -> None:
    """Give the memory back."""
    global _kept
    _kept = None


def state_of(config: ModelConfig) -> tuple[object, ...]:
    """What must be the same for a model to be the same: where it lies, the state of its files, how it is computed.

    Raises UserError if it lies nowhere.
    """
    source = locate(config)
    files = [source] if source.is_file() else sorted(Path(source).rglob("*"))
    state = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file())
    return (str(source), config.revision, config.precision, config.device, state)

"""Models and indexes that are loaded once, shared by all visitors, and dropped when memory is short.

For the worker's thread alone.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import psutil

from llmrl.config import ModelConfig, RetrieverConfig
from llmrl.engine.memory import give_back_memory
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel, fingerprint, load
from llmrl.models.places import weights_of
from llmrl.models.resident import state_of
from llmrl.retrieval.manifest import pointer
from llmrl.retrieval.search import Searcher

BYTES_A_WEIGHT = 8
"""In fp32, a copy in bf16, and as much again while it is read."""
RESERVE = 0.1
"""Share of the machine's memory that is left free."""
T = TypeVar("T")


def free_bytes(limits: Path = Path("/sys/fs/cgroup")) -> float:
    """Of the machine's memory, or of what a container may have of it (cgroup v2), whichever is less."""
    free = psutil.virtual_memory().available
    try:
        most, used = ((limits / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return free if most == "max" else min(free, int(most) - int(used))
    except (OSError, ValueError):  # no such limits here
        return free


class Shelf:
    """What was used last is dropped last."""

    def __init__(self, free: Callable[[], float] = free_bytes, most: int = 8) -> None:
        """`free` says how many bytes are free, `most` how many things are kept at most."""
        self._free, self._most = free, most
        self._things: OrderedDict[tuple[object, ...], object] = OrderedDict()
        self._hashes: dict[tuple[object, ...], str] = {}

    def __len__(self) -> int:
        return len(self._things)

    def language_model(self, config: ModelConfig) -> LanguageModel:
        """As `load` gives it; its weights are not to be changed. Raises UserError."""
        weights = weights_of(config) or 0
        return self._taken(("model", *state_of(config)), lambda: load(config), weights * BYTES_A_WEIGHT, config.name_or_path)

    def sha256(self, config: ModelConfig) -> str:
        """Of the model's weights, as a run's record has it. Raises UserError."""
        state = state_of(config)
        if state not in self._hashes:
            self._hashes[state] = fingerprint(self.language_model(config).model)
        return self._hashes[state]

    def searcher(self, config: RetrieverConfig) -> Searcher:
        """As `Searcher(config)`, anew where the index was ingested into since. Raises UserError."""
        assert config.index is not None
        size = sum(path.stat().st_size for path in Path(config.index).rglob("*") if path.is_file())
        return self._taken(("index", repr(config), pointer(Path(config.index))), lambda: Searcher(config), size, config.index)

    def _taken(self, key: tuple[object, ...], make: Callable[[], T], size: float, name: str) -> T:
        if key not in self._things:
            self._make_room(size, name)
            self._things[key] = make()
        self._things.move_to_end(key)
        return cast(T, self._things[key])

    def _make_room(self, size: float, name: str) -> None:
        reserve = RESERVE * psutil.virtual_memory().total
        while self._things and (self._free() - size < reserve or len(self._things) >= self._most):
            self._things.popitem(last=False)
            give_back_memory()
        if self._free() - size < reserve:
            raise UserError(
                f"there is no memory for {name}: it wants {size / 1e9:.1f} GB, {self._free() / 1e9:.1f} GB are free"
            )

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
"""Share of the memory that is left free."""
T = TypeVar("T")


def memory(limits: Path = Path("/sys/fs/cgroup")) -> tuple[float, float]:
    """(bytes that are free, bytes there are): of the machine, or of what a container may have of it (cgroup v2)."""
    machine = psutil.virtual_memory()
    free, total = float(machine.available), float(machine.total)
    try:
        most, used, told = (
            (limits / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current", "stat")
        )
        if most != "max":
            cached = int(dict(line.split() for line in told.splitlines())["inactive_file"])  # files that are kept in case
            free, total = min(free, int(most) - int(used) + cached), min(total, int(most))
    except (OSError, ValueError, KeyError):  # no such limits here
        pass
    return free, total


class Shelf:
    """What was used last is dropped last."""

    def __init__(self, memory: Callable[[], tuple[float, float]] = memory, most: int = 8) -> None:
        """`memory` says how many bytes are free, and of how many; `most` things are kept at most."""
        self._memory, self._most = memory, most
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
        while self._things and (self._left(size) < 0 or len(self._things) >= self._most):
            self._things.popitem(last=False)
            give_back_memory()
        if self._left(size) < 0:
            raise UserError(
                f"there is no memory for {name}: it wants {size / 1e9:.1f} GB, {self._memory()[0] / 1e9:.1f} GB are free"
            )

    def _left(self, size: float) -> float:
        """Bytes that are left above the reserve when something of that size is there."""
        free, total = self._memory()
        return free - size - RESERVE * total

"""The random streams that a process shares: Python's, NumPy's old one and torch's. llmrl draws from none, but a reward may."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def shared_streams() -> dict[str, Tensor]:
    """Where each of them stands, as tensors that a checkpoint can hold."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    assert (version, kind) == (3, "MT19937")
    return {
        "python": torch.tensor([*numbers, gauss is not None, gauss or 0.0], dtype=torch.float64),  # 32-bit numbers: exact
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss, cached], dtype=torch.float64),  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
    }


def restore_shared_streams(streams: Mapping[str, Tensor]) -> None:
    """Put them where `shared_streams` found them."""
    *numbers, has_gauss, gauss = streams["python"].tolist()
    random.setstate((3, tuple(map(int, numbers)), gauss if has_gauss else None))
    *keys, position, has_cached, cached = streams["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), int(position), int(has_cached), cached))
    torch.set_rng_state(streams["torch"])


def seed_shared_streams(seed: int) -> None:
    """So that a run is the same whatever the process did before it."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def shared_streams_kept(seed: int) -> Iterator[None]:
    """Inside, they begin at `seed`; afterwards they go on as if nothing had happened."""
    before = shared_streams()
    seed_shared_streams(seed)
    try:
        yield
    finally:
        restore_shared_streams(before)

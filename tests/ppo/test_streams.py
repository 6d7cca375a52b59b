"""The random streams that a process shares go where they were."""

import random

import numpy as np
import torch

from llmrl.ppo.streams import restore_shared_streams, seed_shared_streams, shared_streams, shared_streams_kept


def draws() -> list[float]:
    """From each stream, the normal ones twice: their generators keep a second number back."""
    return [
        random.random(), random.gauss(0, 1), float(np.random.random()), float(np.random.standard_normal()),
        float(torch.rand(())),
    ]  # fmt: skip


def test_they_go_on_from_where_they_stood() -> None:
    seed_shared_streams(3)
    draws()
    kept = shared_streams()
    first = [draws() for _ in range(3)]
    restore_shared_streams(kept)
    assert [draws() for _ in range(3)] == first


def test_one_seed_gives_the_same_numbers_and_an_interlude_changes_none() -> None:
    seed_shared_streams(4)
    first = [draws() for _ in range(4)]
    seed_shared_streams(4)
    second = [draws()]
    with shared_streams_kept(9):
        within = draws()
    second += [draws() for _ in range(3)]
    assert first == second
    with shared_streams_kept(9):
        assert draws() == within
    assert within not in first

"""How much memory a job will want, and so how many may run at once."""

import sys
import time
from collections.abc import Callable

import psutil

from llmrl.config import TrainConfig

PROCESS_BYTES = 900_000_000
"""Python with torch and transformers, before a model."""
TRAINED_BYTES, SHARED_BYTES = 24, 8
"""A weight that is trained: itself, gradient and two moments in fp32, a bf16 copy, the reference; one that is frozen:
itself and its working copy."""
MOST = 0.9
"""Share of the free memory that is given out."""


def job_bytes(config: TrainConfig) -> int | None:
    """What a job of this config will want at most, roughly; None where its model's size can't be known."""
    from llmrl.models.places import weights_of  # here, as it loads what talks to the hub

    weights = weights_of(config.model)
    if weights is None:
        return None
    light = config.ppo is not None and config.ppo.lora_rank > 0
    return PROCESS_BYTES + weights * (SHARED_BYTES if light else TRAINED_BYTES)


def jobs_at_once(wanted: int, config: TrainConfig) -> int:
    """How many of `wanted` processes fit into the memory that is free; at least one. Says so where they are fewer."""
    needed = job_bytes(config)
    if needed is None:
        return wanted
    free = psutil.virtual_memory().available
    fits = max(1, int(MOST * free / needed))
    if fits < wanted:
        print(
            f"llmrl train: {wanted} jobs at once would want about {wanted * needed / 1e9:.1f} GB and {free / 1e9:.1f} are "
            f"free: {fits} at once",
            file=sys.stderr,
        )
    return min(wanted, fits)


def wait_for_memory(config: TrainConfig, others_run: Callable[[], bool]) -> None:
    """Return when there is room for one more job, or nobody is left whose end could make some."""
    needed, said = job_bytes(config), False
    while needed is not None and psutil.virtual_memory().available < needed and others_run():
        if not said:
            print(f"waiting until {needed / 1e9:.1f} GB of memory are free", flush=True)
            said = True
        time.sleep(1)

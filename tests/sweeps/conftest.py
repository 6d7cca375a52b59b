"""Results made by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmrl.evaluation.bootstrap import Interval
from llmrl.sweeps.plan import Job, settings_of
from llmrl.sweeps.results import Result

Maker = Callable[..., Result]


@pytest.fixture
def made() -> Maker:
    """made("ppo.lr=1e-5 seed=1", 0.5, kl=2.0): a finished job with that mean held-out reward, 20 prompts, one response each."""
    count = iter(range(10_000))

    def make(words: str, mean: float, kl: float = 1.0, reward: str = "no_repeat", spread: float = 0.1) -> Result:
        number, overrides = next(count), tuple(words.split())
        rewards = mean + spread * np.linspace(-1, 1, 20)[:, None]
        interval = Interval(mean, mean - 0.05, mean + 0.05, "20 prompts")
        job = Job(number, overrides, f"{number:03d}", str(number))
        return Result(
            job, Path(job.folder), "finished", settings=settings_of(overrides), reward_name=reward, reward=interval,
            rewards=rewards, base_reward=0.0, difference=Interval(mean, 0, 1, ""), verdict="improved", kl=kl,
            steps=2, seconds=1.0,
        )  # fmt: skip

    return make

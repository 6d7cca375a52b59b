"""How sure a mean is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
FEW_PROMPTS = 10


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, and what was resampled to get it."""

    mean: float
    low: float
    high: float
    resampled: str


def paired_interval(differences: np.ndarray, seed: int, level: float = 0.95) -> Interval:
    """Percentile bootstrap of the mean of `differences` [prompts, responses per prompt] (Efron, Tibshirani 1993, chapter 13).

    Prompts are resampled, as responses to one prompt resemble each other. With fewer than ten prompts that would say little;
    then responses are resampled within each prompt, and the interval speaks of those prompts alone.
    """
    rng = np.random.default_rng(seed)
    prompts, each = differences.shape
    if prompts >= FEW_PROMPTS:
        per_prompt = differences.mean(axis=1)
        means = per_prompt[rng.integers(0, prompts, (RESAMPLES, prompts))].mean(axis=1)
        resampled = f"{prompts} prompts"
    else:
        picks = rng.integers(0, each, (RESAMPLES, prompts, each))
        means = differences[np.arange(prompts)[None, :, None], picks].mean(axis=(1, 2))
        resampled = f"responses to {f'these {prompts} prompts' if prompts > 1 else 'this prompt'} alone"
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high), resampled)


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean of independent values: one response to each of some prompts."""
    array, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = array[rng.integers(0, len(array), (1000, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def verdict(interval: Interval) -> str:
    """improved, worse, or no evidence: an interval that covers zero is never an improvement."""
    if interval.low > 0:
        return "improved"
    return "worse" if interval.high < 0 else "no evidence"

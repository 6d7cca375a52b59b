"""Mean and deviation of everything seen so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from llmrl.config import ScoreNormalization


@dataclass
class RunningStatistics:
    """Of a stream of numbers that comes in batches; merged as in Chan, Golub and LeVeque, 1979. Python floats: 64 bits."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared differences from the mean

    def update(self, values: Sequence[float]) -> None:
        """Take a batch in."""
        size = len(values)
        if not size:
            return
        mean = fmean(values)
        gap, total = mean - self.mean, self.count + size
        self.squares += sum((value - mean) ** 2 for value in values) + gap * gap * self.count * size / total
        self.mean += gap * size / total
        self.count = total

    @property
    def deviation(self) -> float:
        """Standard deviation, without Bessel's correction."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def normalize(self, values: Sequence[float], how: ScoreNormalization) -> list[float]:
        """Divided by the deviation, less the mean first for `standardize`; as they are if nothing varied yet or for `none`."""
        if how is ScoreNormalization.none or not self.deviation > 1e-8:
            return list(values)
        centre = self.mean if how is ScoreNormalization.standardize else 0.0
        return [(value - centre) / self.deviation for value in values]

"""Which settings matter: how much worse a forest predicts the held-out reward once a setting's values are shuffled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from llmrl.sweeps.results import Result

LEAST_JOBS = 8
SHUFFLES = 30
TREES = 200


@dataclass(frozen=True)
class Importance:
    """Of each setting, the drop of R^2 when it is shuffled: 0 means that nothing depends on it. `fit` is R^2 out of bag."""

    of: dict[str, tuple[float, float]]  # setting to (mean, deviation over shuffles), highest first
    fit: float
    jobs: int


def importance(results: Sequence[Result]) -> Importance | None:
    """Permutation importance (Breiman, Random forests, 2001) by scikit-learn. The seed is a setting like the others: what is no
    more important than it is luck. None where there are too few jobs, or nothing varies."""
    counted = [result for result in results if result.counts]
    keys = sorted({key for result in counted for key in result.settings})
    keys = [key for key in keys if len({str(result.settings.get(key)) for result in counted}) > 1]
    rewards = np.array([result.reward.mean for result in counted])  # type: ignore[union-attr]
    if len(counted) < LEAST_JOBS or not keys or np.ptp(rewards) == 0:
        return None
    columns = np.array([_numbers([result.settings.get(key) for result in counted]) for key in keys]).T
    forest = RandomForestRegressor(TREES, oob_score=True, random_state=0, n_jobs=1).fit(columns, rewards)
    shuffled: Any = permutation_importance(forest, columns, rewards, n_repeats=SHUFFLES, random_state=0, n_jobs=1)
    found = {key: (float(shuffled.importances_mean[i]), float(shuffled.importances_std[i])) for i, key in enumerate(keys)}
    return Importance(dict(sorted(found.items(), key=lambda item: -item[1][0])), float(forest.oob_score_), len(counted))


def _numbers(values: Sequence[object]) -> list[float]:
    """Numbers as they are, names by their alphabetical place: a tree asks for no more than an order."""
    if all(isinstance(value, int | float) for value in values):
        return [float(value) for value in values]  # type: ignore[arg-type]
    names = sorted({str(value) for value in values})
    return [float(names.index(str(value))) for value in values]

"""Which settings came out first, how sure that is, and whether the first is better than the second by more than seeds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from llmrl.evaluation.bootstrap import Interval, paired_interval
from llmrl.sweeps.results import Result

SEED = "seed"
Key = tuple[tuple[str, Any], ...]


@dataclass
class Group:
    """Jobs that differ by seed alone. Its interval is over seeds where there are two, else over one seed's prompts."""

    settings: dict[str, Any]
    results: list[Result]
    reward: Interval
    kl: float
    planned: int = 0  # jobs of these settings, those that failed or are left included
    on_frontier: bool = False  # no other group has a higher reward at a lower KL

    @property
    def seeds(self) -> list[Any]:
        return [result.settings.get(SEED) for result in self.results]

    @property
    def best(self) -> Result:
        """Its run with the highest held-out reward."""
        return max(self.results, key=lambda result: result.reward.mean)  # type: ignore[union-attr]


@dataclass
class Ranking:
    """Groups with one and the same reward, best first. `lead` is the difference of the first to the second, if there is one."""

    reward_name: str
    groups: list[Group]
    lead: Interval | None = None
    lead_verdict: str = ""


def rank(results: Sequence[Result]) -> list[Ranking]:
    """One ranking for each reward: figures of different rewards are different units."""
    rankings = []
    planned = Counter(_key(result) for result in results if result.status != "same")
    counted = [result for result in results if result.counts]
    for name in sorted({result.reward_name for result in counted}):
        keyed: dict[Key, list[Result]] = {}
        for result in counted:
            if result.reward_name == name:
                keyed.setdefault(_key(result), []).append(result)
        groups = [
            Group(
                dict(key), each, interval_over([one.reward for one in each]), float(np.mean([one.kl for one in each])),  # type: ignore[arg-type,misc]
                planned[key],
            ) for key, each in keyed.items()
        ]  # fmt: skip
        groups.sort(key=lambda group: (-group.reward.mean, group.kl))
        lowest = np.inf
        for group in groups:
            group.on_frontier, lowest = group.kl < lowest, min(lowest, group.kl)
        ranking = Ranking(name, groups)
        if len(groups) > 1:
            ranking.lead, ranking.lead_verdict = lead_of(groups[0], groups[1])
        rankings.append(ranking)
    return rankings


def _key(result: Result) -> Key:
    """What a job's group has in common: its settings but for the seed."""
    return tuple(sorted((key, value) for key, value in result.settings.items() if key != SEED))


def interval_over(rewards: Sequence[Interval]) -> Interval:
    """Mean over seeds with Student's 95 % interval of their means; of a single seed, its own interval over prompts."""
    if len(rewards) == 1:
        return rewards[0]
    return student([reward.mean for reward in rewards], f"{len(rewards)} seeds")


def student(values: Sequence[float], resampled: str) -> Interval:
    """Mean and 95 % interval by Student's t with n - 1 degrees of freedom."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half, resampled)


def lead_of(first: Group, second: Group) -> tuple[Interval | None, str]:
    """(difference of rewards with its interval, what it says). Jobs of one seed share prompts and random numbers: pairs."""
    by_seed = [{result.settings.get(SEED): result for result in group.results} for group in (first, second)]
    common = [seed for seed in by_seed[0] if seed in by_seed[1]]
    if len(common) > 1:
        gaps = [by_seed[0][seed].reward.mean - by_seed[1][seed].reward.mean for seed in common]  # type: ignore[union-attr]
        interval = student(gaps, f"{len(common)} seeds, paired")
        return interval, "more than seeds" if interval.low > 0 else "not more than seeds"
    if len(first.results) > 1 and len(second.results) > 1:
        return _welch(first, second)
    counts = (len(first.results), len(second.results))
    each = "one seed each" if counts == (1, 1) else f"{_seeds(counts[0])} against {_seeds(counts[1])}"
    if counts != (1, 1):
        return None, f"{each}: more seeds must tell it from luck"
    if not common:
        return None, f"{each}, and not the same: it can't be told from luck"
    one, other = by_seed[0][common[0]].rewards, by_seed[1][common[0]].rewards
    if one is None or other is None or one.shape != other.shape:
        return None, f"{each}, other prompts: it can't be told from luck"
    return paired_interval(one - other, 0), f"{each}: more seeds must tell it from luck"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _welch(first: Group, second: Group) -> tuple[Interval, str]:
    """Seeds that are not the same can't be paired: Welch's interval."""
    means = [[result.reward.mean for result in group.results] for group in (first, second)]  # type: ignore[union-attr]
    found = stats.ttest_ind(*means, equal_var=False).confidence_interval(0.95)
    interval = Interval(float(np.mean(means[0]) - np.mean(means[1])), float(found.low), float(found.high), "seeds, not paired")
    return interval, "more than seeds" if interval.low > 0 else "not more than seeds"

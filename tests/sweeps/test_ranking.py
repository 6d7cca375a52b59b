"""Who is first, and how sure that is: numbers worked out by hand or by SciPy's own test."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from llmrl.sweeps.conclude import as_json, write_csv
from llmrl.sweeps.importance import importance
from llmrl.sweeps.ranking import rank, student
from llmrl.sweeps.words import row, sayings
from tests.sweeps.conftest import Maker


def test_students_interval_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1, t of 0.975 with 2 degrees of freedom 4.302653, over the root of 3."""
    interval = student([1.0, 2.0, 3.0], "3 seeds")
    assert interval.mean == pytest.approx(2.0)
    assert interval.high - interval.mean == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert interval.mean - interval.low == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_seeds_are_grouped_and_the_highest_mean_is_first(made: Maker) -> None:
    results = [made(f"ppo.lr=1e-5 seed={seed}", value) for seed, value in ((1, 0.5), (2, 0.6), (3, 0.7))]
    results += [made(f"ppo.lr=3e-5 seed={seed}", value) for seed, value in ((1, 0.8), (2, 0.85), (3, 0.9))]
    (ranking,) = rank(results)
    assert [group.settings for group in ranking.groups] == [{"ppo.lr": 3e-5}, {"ppo.lr": 1e-5}]
    assert [group.reward.mean for group in ranking.groups] == pytest.approx([0.85, 0.6])
    assert ranking.groups[0].best.settings["seed"] == 3
    gaps = np.array([0.3, 0.25, 0.2])  # paired by seed
    expected = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert ranking.lead is not None
    assert (ranking.lead.low, ranking.lead.high) == pytest.approx((expected.low, expected.high))
    assert ranking.lead_verdict == "more than seeds"
    assert any("first over second by +0.250" in line for line in sayings(ranking, None))


def test_a_lead_within_the_noise_of_seeds_is_none(made: Maker) -> None:
    results = [made(f"a=1 seed={seed}", value) for seed, value in ((1, 0.5), (2, 0.9), (3, 0.4))]
    results += [made(f"a=2 seed={seed}", value) for seed, value in ((1, 0.8), (2, 0.5), (3, 0.45))]
    (ranking,) = rank(results)
    assert ranking.lead_verdict == "not more than seeds"


def test_one_seed_can_not_tell_from_luck(made: Maker) -> None:
    (ranking,) = rank([made("a=1 seed=1", 0.5), made("a=2 seed=1", 0.9)])
    assert ranking.lead_verdict == "one seed each: more seeds must tell it from luck"
    assert ranking.lead is not None
    assert ranking.lead.mean == pytest.approx(0.4)
    (ranking,) = rank([made("a=1 seed=1", 0.5), made("a=2 seed=2", 0.9)])
    assert ranking.lead is None
    (ranking,) = rank([made("a=1 seed=1", 0.5), *(made(f"a=2 seed={seed}", 0.9) for seed in (1, 2, 3))])
    assert (ranking.lead, ranking.lead_verdict) == (None, "3 seeds against one seed: more seeds must tell it from luck")


def test_seeds_that_are_not_the_same_are_not_paired(made: Maker) -> None:
    results = [made(f"a=1 seed={seed}", value) for seed, value in ((1, 0.5), (2, 0.52))]
    results += [made(f"a=2 seed={seed}", value) for seed, value in ((3, 0.9), (4, 0.93))]
    (ranking,) = rank(results)
    expected = stats.ttest_ind([0.9, 0.93], [0.5, 0.52], equal_var=False).confidence_interval(0.95)
    assert ranking.lead is not None
    assert ranking.lead.low == pytest.approx(expected.low)


def test_rewards_that_differ_are_not_ranked_together(made: Maker) -> None:
    rankings = rank([made("reward=a seed=1", 9.0, reward="a"), made("reward=b seed=1", 0.5, reward="b")])
    assert [(each.reward_name, len(each.groups)) for each in rankings] == [("a", 1), ("b", 1)]


def test_the_frontier_is_what_nothing_beats_in_reward_and_kl(made: Maker) -> None:
    (ranking,) = rank([made("a=1", 0.9, kl=5.0), made("a=2", 0.8, kl=6.0), made("a=3", 0.7, kl=2.0), made("a=4", 0.6, kl=2.0)])
    assert [group.on_frontier for group in ranking.groups] == [True, False, True, False]
    (ranking,) = rank([made("a=1", 0.9, kl=5.0), made("a=2", 0.9, kl=2.0)])
    assert [(group.settings["a"], group.on_frontier) for group in ranking.groups] == [(2.0, True), (1.0, False)]


def test_what_ended_early_or_has_fewer_seeds_is_said(made: Maker, tmp_path: Path) -> None:
    results = [made(f"a=1 seed={seed}", 0.5 + seed / 10) for seed in (1, 2, 3)] + [made("a=2 seed=1234567", 0.4)]
    results[0].reason = "below the median (sweep.prune)"
    results[2].status, results[2].reward = "failed", None
    (ranking,) = rank(results)
    first, second = (row(place, group) for place, group in enumerate(ranking.groups, 1))
    assert (first[2], second[2]) == ("2 of 3", "1")
    assert first[4].endswith("(seeds)")
    assert second[4].endswith("(prompts)")
    assert first[-1] == "2 improved, 1 ended early at step 2"
    told = as_json(results, [ranking], {ranking.reward_name: None})
    assert [job["ended_early"] for job in told["jobs"]] == [True, False, False, False]
    groups = [(group["jobs"], group["planned"], group["ended_early"]) for group in told["rankings"][0]["groups"]]
    assert groups == [([1, 2], 3, [1]), ([4], 1, [])]
    assert any("a seed that failed" in line for line in sayings(ranking, None))
    write_csv(tmp_path / "ranking.csv", results, [ranking])
    assert ",1234567," in (tmp_path / "ranking.csv").read_text(encoding="utf-8")


def test_what_matters_is_found(made: Maker) -> None:
    """The reward follows the learning rate alone; epochs and seeds do nothing."""
    results = [
        made(f"ppo.lr={lr} ppo.epochs={epochs} seed={seed}", value)
        for lr, value in (("1e-5", 0.1), ("3e-5", 0.5), ("1e-4", 0.9)) for epochs in (1, 4) for seed in (1, 2, 3)
    ]  # fmt: skip
    found = importance(results)
    assert found is not None
    assert next(iter(found.of)) == "ppo.lr"
    assert found.of["ppo.lr"][0] > 1
    assert abs(found.of["ppo.epochs"][0]) < 0.01
    assert found.fit > 0.9
    assert importance(results[:4]) is None  # too few
    assert importance([made(f"a={i}", 0.5) for i in range(10)]) is None  # nothing varies

"""Each warning comes when it should, and not for a run that is well."""

import pytest

from llmrl.ppo.health import LONG, WINDOW, Health

WELL = {
    "objective/scores": 1.0, "objective/scores_std": 0.5, "objective/kl": 0.1, "objective/kl_std": 1.0,
    "objective/ref_perplexity": 8.0, "response/finished": 0.5, "val/var_explained": 0.2,
}  # fmt: skip


def kinds(*steps: dict[str, float], full: bool = True) -> list[str]:
    health = Health(batch_size=16, max_new_tokens=32, full_distribution=full)
    return [kind for number, step in enumerate(steps, 1) for kind, _ in health.observe(number, WELL | step)]


def test_a_run_that_is_well_is_not_warned_of() -> None:
    rising = [{"objective/scores": 1 + step / 5, "objective/ref_perplexity": 8 - step / 10} for step in range(30)]
    assert kinds(*rising) == []


def test_equal_rewards() -> None:
    assert kinds({}, {"objective/scores_std": 0.0}) == ["rewards are equal"]


def test_all_cut_off_for_some_steps() -> None:
    cut = {"response/finished": 0.0}
    assert kinds(*[cut] * (WINDOW - 1), {}, *[cut] * (WINDOW - 1)) == []
    assert kinds(*[cut] * 3 * WINDOW) == ["cut off"]


def test_kl_below_zero_by_more_than_chance() -> None:
    """The standard error of 16 responses of deviation 1 is 0.25; four of them are 1."""
    assert kinds({"objective/kl": -0.9}) == []
    assert kinds({"objective/kl": -1.1}) == ["negative KL"]
    assert kinds({"objective/kl": -1.1}, full=False) == []


def test_a_value_head_that_is_worse_than_a_constant_for_long() -> None:
    bad = {"val/var_explained": -0.1}
    assert kinds(*[bad] * (LONG - 1), {}, *[bad] * (LONG - 1)) == []
    assert kinds(*[bad] * LONG) == ["value head"]


@pytest.mark.parametrize(("reward", "perplexity", "hacked"), [(3.0, 20.0, True), (3.0, 12.0, False), (1.2, 20.0, False)])
def test_reward_up_and_fluency_down(reward: float, perplexity: float, hacked: bool) -> None:
    """A reward up by more than a deviation, with text twice as surprising to the reference."""
    after = {"objective/scores": reward, "objective/ref_perplexity": perplexity}
    found = set(kinds(*[{}] * WINDOW, *[after] * WINDOW))  # said once by the display
    assert found == ({"reward hacking"} if hacked else set())

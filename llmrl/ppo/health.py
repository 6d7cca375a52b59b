"""Warnings about a run that looks fine and learns nothing, or learns the wrong thing; each is said once."""

from collections import deque
from collections.abc import Iterator, Mapping
from statistics import fmean

LONG = 10  # steps
WINDOW = 5  # steps
FIRST = 2  # steps that say what the run began with: more would hold what it has already learned


class Health:
    """Looks at each step's metrics and yields (kind, text) of what a person should know; say each kind once."""

    def __init__(self, batch_size: int, max_new_tokens: int, full_distribution: bool) -> None:
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.full_distribution = full_distribution
        self._cut_off = 0
        self._unexplained = 0
        self._first: list[Mapping[str, float]] = []
        self._last: deque[Mapping[str, float]] = deque(maxlen=WINDOW)

    def observe(self, step: int, metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """`metrics` of step `step`, named as in docs/metrics.md."""
        if metrics["objective/scores_std"] == 0:
            yield (
                "rewards are equal",
                f"all {self.batch_size} rewards of step {step} are {metrics['objective/scores']:g}: "
                "there is nothing to learn from",
            )
        self._cut_off = self._cut_off + 1 if metrics["response/finished"] == 0 else 0
        if self._cut_off == WINDOW:
            yield (
                "cut off",
                f"no response of the last {WINDOW} steps ended by itself: all were cut off at rollout.max_new_tokens="
                f"{self.max_new_tokens}; raise it if the reward is about whole answers",
            )
        error = metrics["objective/kl_std"] / self.batch_size**0.5
        if self.full_distribution and metrics["objective/kl"] + 4 * error < -1e-3:
            yield (
                "negative KL",
                f"the KL to the reference is {metrics['objective/kl']:.2f} in step {step}, below zero by more than chance: "
                "samples do not come from the distribution that is scored",
            )
        self._unexplained = self._unexplained + 1 if metrics["val/var_explained"] < 0 else 0
        if self._unexplained == LONG:
            yield (
                "value head",
                f"the value head explains less than nothing of the returns for {LONG} steps (val/var_explained < 0): "
                "advantages are noise; try a higher ppo.value_lr or a lower ppo.lr",
            )
        yield from self._hacking(step, metrics)

    def _hacking(self, step: int, metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """The reward is up by a deviation of what it was at first, and the reference finds the text half as likely a word."""
        if len(self._first) < FIRST:
            self._first.append(metrics)
            return
        self._last.append(metrics)
        if len(self._last) < WINDOW:
            return
        reward, perplexity = (
            tuple(fmean(each[name] for each in window) for window in (self._first, self._last))
            for name in ("objective/scores", "objective/ref_perplexity")
        )
        spread = fmean(each["objective/scores_std"] for each in self._first)
        if reward[1] > reward[0] + spread and perplexity[1] > 2 * perplexity[0]:
            yield (
                "reward hacking",
                f"the reward rose from {reward[0]:.3g} to {reward[1]:.3g} by step {step} while the text's perplexity under the "
                f"reference rose from {perplexity[0]:.3g} to {perplexity[1]:.3g}: likely reward hacking; read samples.jsonl, "
                "raise ppo.kl_coef or set ppo.kl_target",
            )

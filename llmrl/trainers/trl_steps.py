"""The callback through which TRL's trainers count our steps, log under our names, look at held-out prompts and heed Ctrl-C."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from llmrl.errors import RunError
from llmrl.prompts import Prompt
from llmrl.rewards import score
from llmrl.rollout import Distribution, response_logprobs, rollout_of
from llmrl.tracking.console import ProgressDisplay
from llmrl.trainers.held_out import held_out_reward
from llmrl.trainers.interrupt import StopSignal
from llmrl.trainers.protocol import Workbench, sample_rows

NAMES = {
    "loss": "loss", "entropy": "policy/entropy", "clip_ratio/region_mean": "policy/clipfrac",
    "frac_reward_zero_std": "frac_reward_zero_std",
}  # fmt: skip
OURS = ("rewards/", "reward", "learning_rate", "completions/mean_length")  # logged from our own figures


class Steps(TrainerCallback):
    """A step of ours is one batch of `rows`, learned from in `updates` optimiser steps of TRL's, and a line of metrics."""

    def __init__(self, bench: Workbench, updates: int, rows: int, stop: StopSignal, display: ProgressDisplay) -> None:
        self.bench, self.updates, self.rows, self.stop, self.display = bench, updates, rows, stop, display
        self.step = 0
        self.look_further: Callable[[], dict[str, float]] = dict  # what a trainer looks at beside the held-out reward
        self._batch: dict[str, float] = {}  # figures of the batch that is being learned from
        self._began = time.perf_counter()

    def score(self, prompts: Sequence[Prompt], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        """Weighted rewards of a batch of responses, which are logged as samples. Raises RunError where a reward does."""
        bench, step = self.bench, self.step + 1
        bench.language_model.has_changed()
        rollout = rollout_of(bench.language_model, prompts, completion_ids, bench.config.rollout)
        scores = score(bench.rewards, rollout.samples(bench.config.rollout.max_new_tokens))
        base = response_logprobs(bench.reference, rollout, Distribution.of(bench.language_model, bench.config.rollout))
        kls = (rollout.logprobs - base).sum(-1).tolist()
        self._batch = {
            "objective/scores": fmean(scores.total), "objective/scores_std": pstdev(scores.total),
            "objective/kl": fmean(kls), "objective/kl_std": pstdev(kls),
            "response/length": fmean(rollout.response_mask.sum(-1).tolist()),
            "response/finished": fmean(rollout.finished.float().tolist()),
        }  # fmt: skip
        for name, values in scores.components.items():
            self._batch |= {f"rewards/{name}/mean": fmean(values), f"rewards/{name}/std": pstdev(values)}
        rows, every = sample_rows(prompts, rollout.texts, scores), bench.config.trainer.samples_every
        bench.run.log_samples(rows, step)
        if every and step % every == 0:
            bench.tracker.log_samples(rows, step)
        if len(set(scores.total)) == 1:
            same = f"all {len(rows)} rewards of step {step} are {scores.total[0]:g}: there is nothing to learn from"
            self.display.warn("rewards are equal", same)
        return scores.total

    def look(self) -> dict[str, float]:
        """The held-out reward, with the model as it is."""
        self.bench.language_model.model.eval()
        self.bench.language_model.has_changed()
        metrics = held_out_reward(self.bench) | self.look_further()
        prompts = f"({len(self.bench.looked_at)} prompts)"
        self.display.say(f"held-out reward after {self.step} steps: {metrics['eval/reward']:.3f} {prompts}")
        return metrics

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bench.config.trainer.eval_every:
            self._write(self.look())
        self._began = time.perf_counter()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any) -> None:
        """The learning rate of a step is that of its first update; TRL logs the one after its last."""
        if state.global_step == self.step * self.updates:
            self._lr = float(optimizer.param_groups[0]["lr"])

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        """TRL logs its means once a step of ours, and a summary at the end, which is not a step."""
        if not logs or "train_runtime" in logs or state.global_step != (self.step + 1) * self.updates:
            return
        trainer, seconds = self.bench.config.trainer, time.perf_counter() - self._began
        self.step += 1
        self._refuse_not_finite(logs)
        theirs = {name: value for name, value in logs.items() if value is not None and not name.startswith(OURS)}
        metrics = {NAMES.get(name, f"trl/{name}"): float(value) for name, value in theirs.items()}
        metrics |= self._batch | {"lr": self._lr, "episodes": float(self.step * self.rows), "samples/s": self.rows / seconds}
        if "response/length" in metrics:
            metrics["tokens/s"] = metrics["response/length"] * metrics["samples/s"]
        self.display.step(self.step, metrics)
        if trainer.eval_every and (self.step % trainer.eval_every == 0 or self.step == trainer.steps):
            metrics |= self.look()
        self._write(metrics)
        if self.stop.requested:
            control.should_training_stop = True
        self._began = time.perf_counter()

    def _refuse_not_finite(self, logs: dict[str, Any]) -> None:
        """A gradient that is not finite has spoilt the weights: TRL has no check of its own, and nothing can be sampled now."""
        for name in ("loss", "grad_norm"):
            if not math.isfinite(float(logs.get(name, 0.0))):
                key = f"{self.bench.config.trainer.name}.lr"
                raise RunError(f"the {name} of step {self.step} is {logs[name]}: lower {key}, or set model.precision=fp32")

    def _write(self, metrics: dict[str, float]) -> None:
        self.bench.run.log(metrics, self.step)
        self.bench.tracker.log(metrics, self.step)

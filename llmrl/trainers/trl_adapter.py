"""What the adapters to TRL's trainers share. TRL is used as it is: its trainers get our model, prompts, rewards and a callback.

One step here is one batch: sampled, scored and learned from in several optimiser steps of TRL's.
"""

import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev
from typing import Any

from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState

from llmrl.config import GroupConfig, Schedule, TRLConfig
from llmrl.models.load import save
from llmrl.prompts import Prompt
from llmrl.rewards import Sample, Scores, score
from llmrl.tracking.console import ProgressDisplay
from llmrl.trainers.held_out import held_out_reward
from llmrl.trainers.interrupt import StopSignal
from llmrl.trainers.protocol import Outcome, Workbench, sample_rows

disable_progress_bars()  # a run has one progress bar, its own


def training_arguments(bench: Workbench, settings: TRLConfig, minibatch: int, updates: int) -> dict[str, Any]:
    """What every configuration of TRL takes; a step makes `updates` optimiser steps of `minibatch` rows."""
    micro, warmup = settings.micro_batch_size or minibatch, settings.warmup_steps * updates
    schedule = settings.lr_schedule.value
    return {
        "output_dir": str(bench.run.path / ".trl"), "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": minibatch // micro, "max_steps": bench.config.trainer.steps * updates,
        "learning_rate": settings.lr, "warmup_steps": warmup,
        "lr_scheduler_type": "constant_with_warmup" if settings.lr_schedule is Schedule.constant else schedule,
        "adam_beta1": settings.adam_beta1, "adam_beta2": settings.adam_beta2, "adam_epsilon": settings.adam_eps,
        "weight_decay": settings.weight_decay, "max_grad_norm": settings.max_grad_norm, "optim": "adamw_torch",
        "gradient_checkpointing": settings.gradient_checkpointing, "bf16": bench.language_model.bf16,
        "use_cpu": bench.language_model.device.type == "cpu", "seed": bench.config.seed, "logging_steps": updates,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip


def group_arguments(bench: Workbench, settings: GroupConfig) -> dict[str, Any]:
    """What GRPO's and RLOO's configurations take beside those, sampling included."""
    rollout = bench.config.rollout
    updates = settings.epochs * settings.batch_size // settings.minibatch_size
    return training_arguments(bench, settings, settings.minibatch_size, updates) | {
        "generation_batch_size": settings.batch_size, "num_generations": settings.num_generations,
        "num_iterations": settings.epochs, "epsilon": settings.clip_range, "beta": settings.kl_coef,
        "max_completion_length": rollout.max_new_tokens, "temperature": rollout.temperature, "top_k": rollout.top_k,
        "top_p": rollout.top_p,
    }  # fmt: skip


class Steps(TrainerCallback):
    """Counts our steps, writes one line of metrics for each, looks at held-out prompts, and heeds Ctrl-C."""

    def __init__(self, bench: Workbench, updates: int, rows: int, stop: StopSignal, display: ProgressDisplay) -> None:
        self.bench, self.updates, self.rows, self.stop, self.display = bench, updates, rows, stop, display
        self.step = 0
        self.scores: Scores | None = None  # of the batch that is being learned from
        self._began = time.perf_counter()

    def score(self, prompts: Sequence[Prompt], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        """Weighted rewards of a batch of responses, which are logged as samples. Raises RunError where a reward does."""
        samples = [self._sample(prompt, list(ids)) for prompt, ids in zip(prompts, completion_ids, strict=True)]
        self.scores = score(self.bench.rewards, samples)
        rows = sample_rows(prompts, [one.response for one in samples], self.scores)
        step, every = self.step + 1, self.bench.config.trainer.samples_every
        self.bench.run.log_samples(rows, step)
        if every and step % every == 0:
            self.bench.tracker.log_samples(rows, step)
        return self.scores.total

    def _sample(self, prompt: Prompt, ids: list[int]) -> Sample:
        finished = bool(ids) and ids[-1] in self.bench.language_model.stop_ids
        text = self.bench.language_model.tokenizer.decode(ids[: len(ids) - finished], skip_special_tokens=False)
        return Sample(
            prompt=prompt.text, response=str(text), prompt_id=prompt.id, token_ids=tuple(ids), finished=finished,
            max_new_tokens=self.bench.config.rollout.max_new_tokens, context=prompt.context, answer=prompt.answer,
        )  # fmt: skip

    def look(self) -> dict[str, float]:
        """The held-out reward, with the model as it is."""
        self.bench.language_model.model.eval()
        metrics = held_out_reward(self.bench)
        prompts = f"({len(self.bench.looked_at)} prompts)"
        self.display.say(f"held-out reward after {self.step} steps: {metrics['eval/reward']:.3f} {prompts}")
        return metrics

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bench.config.trainer.eval_every:
            self._write(self.look())
        self._began = time.perf_counter()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        """TRL logs its means once a step of ours, and a summary at the end, which is not a step."""
        if not logs or "train_runtime" in logs or state.global_step != (self.step + 1) * self.updates:
            return
        trainer, seconds = self.bench.config.trainer, time.perf_counter() - self._began
        self.step += 1
        metrics = self._metrics(logs) | {"episodes": float(self.step * self.rows), "samples/s": self.rows / seconds}
        self.display.step(self.step, metrics)
        if trainer.eval_every and (self.step % trainer.eval_every == 0 or self.step == trainer.steps):
            metrics |= self.look()
        self._write(metrics)
        if self.stop.requested:
            control.should_training_stop = True
        self._began = time.perf_counter()

    def _write(self, metrics: dict[str, float]) -> None:
        self.bench.run.log(metrics, self.step)
        self.bench.tracker.log(metrics, self.step)

    def _metrics(self, logs: dict[str, Any]) -> dict[str, float]:
        """TRL's figures under our names where they mean the same, the others as trl/…"""
        found = {f"trl/{name}": float(value) for name, value in logs.items() if name not in NAMES and not name.startswith(OURS)}
        found |= {own: float(logs[name]) for name, own in NAMES.items() if name in logs}
        if "kl" in logs and "completions/mean_length" in logs:  # per token there
            found["objective/kl"] = float(logs["kl"]) * float(logs["completions/mean_length"])
        if self.scores is not None:
            found |= {"objective/scores": fmean(self.scores.total), "objective/scores_std": pstdev(self.scores.total)}
            for name, values in self.scores.components.items():
                found |= {f"rewards/{name}/mean": fmean(values), f"rewards/{name}/std": pstdev(values)}
        return found


NAMES = {
    "loss": "loss", "learning_rate": "lr", "grad_norm": "policy/grad_norm", "entropy": "policy/entropy",
    "completions/mean_length": "response/length", "clip_ratio/region_mean": "policy/clipfrac",
    "frac_reward_zero_std": "frac_reward_zero_std",
}  # fmt: skip
OURS = ("rewards/", "reward")  # worked out from our own scores


def policy_and_data(bench: Workbench, settings: GroupConfig) -> dict[str, Any]:
    """The model, tokenizer and prompts as TRL wants them.

    TRL reads the reference, if the KL counts, from where the config says the model came from: that is made a copy of ours. And
    it stops at the tokens that the generation config names: those become ours.
    """
    model, tokenizer, folder = bench.language_model.model, bench.language_model.tokenizer, bench.run.path / ".trl" / "reference"
    if settings.kl_coef:
        save(bench.reference.model, tokenizer, folder)
        model.config._name_or_path = str(folder)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = list(bench.language_model.stop_ids)
    rows = [{"prompt": prompt.text, "index": number} for number, prompt in enumerate(bench.prompts.train)]
    return {"model": model, "processing_class": tokenizer, "train_dataset": Dataset.from_list(rows)}


def reward_function(bench: Workbench, steps: Steps) -> Any:
    """All of our rewards as one of TRL's, which calls it by keyword with the columns of the data."""

    def reward(index: list[int], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return steps.score([bench.prompts.train[number] for number in index], completion_ids)

    return reward


def run_trl(bench: Workbench, updates: int, rows: int, make: Callable[[Steps], Trainer]) -> Outcome:
    """Train with the trainer of TRL that `make` builds around our callback."""
    bench.language_model.model.requires_grad_(True)
    with StopSignal() as stop, ProgressDisplay(bench.config.trainer.steps) as display, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of TRL's own use of transformers
        steps = Steps(bench, updates, rows, stop, display)
        trainer = make(steps)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(steps)
        try:
            trainer.train()
        finally:
            shutil.rmtree(bench.run.path / ".trl", ignore_errors=True)
    bench.language_model.model.eval()
    status = "finished" if steps.step == bench.config.trainer.steps else "interrupted"
    return Outcome(status, steps.step, steps.step * rows)

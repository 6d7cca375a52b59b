"""What the adapters to TRL's trainers share. TRL is used as it is: its trainers get our model, prompts, rewards and a callback.

One step here is one batch: sampled, scored and learned from in several optimiser steps of TRL's.
"""

import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import PrinterCallback, Trainer

from llmrl.config import GroupConfig, Schedule, TRLConfig
from llmrl.errors import RunError
from llmrl.models.load import save
from llmrl.tracking.console import ProgressDisplay
from llmrl.trainers.interrupt import StopSignal
from llmrl.trainers.lent import count_positions, lent
from llmrl.trainers.protocol import Outcome, Workbench
from llmrl.trainers.trl_steps import Steps

disable_progress_bars()  # a run has one progress bar, its own
constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL would report every run to the hub


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
        "top_p": rollout.top_p, "shuffle_dataset": False,
    }  # fmt: skip


def shuffled_passes(rows: Sequence[dict[str, Any]], count: int, seed: int) -> Dataset:
    """`count` rows, in passes over `rows` that are each shuffled anew: the order in which PPO takes its prompts.

    TRL leaves out what does not fill a batch, so that few prompts would never make one; and the last batch of a pass would be
    smaller than the others. One long pass has neither.
    """
    order: list[int] = []
    while len(order) < count:
        generator = torch.Generator().manual_seed(1000 * seed + len(order) // len(rows))
        order += torch.randperm(len(rows), generator=generator).tolist()
    return Dataset.from_list(list(rows)).select(order[:count])


def policy_and_data(bench: Workbench, settings: GroupConfig) -> dict[str, Any]:
    """The model, tokenizer and prompts as TRL wants them: each prompt once for all responses to it.

    TRL reads the reference, if the KL counts, from where the config says the model came from: that is made a copy of ours. And
    it stops at the tokens that the generation config names: those become ours. Raises RunError if the copy can't be written.
    """
    model, tokenizer, folder = bench.language_model.model, bench.language_model.tokenizer, bench.run.path / ".trl" / "reference"
    if settings.kl_coef:
        try:
            save(bench.reference.model, tokenizer, folder)
        except (OSError, SafetensorError) as error:
            raise RunError(f"the reference could not be written to {folder}: {error}") from error
        model.config._name_or_path = str(folder)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = list(bench.language_model.stop_ids)
    rows = [{"prompt": prompt.text, "index": number} for number, prompt in enumerate(bench.prompts.train)]
    count = bench.config.trainer.steps * settings.batch_size // settings.num_generations
    data = shuffled_passes(rows, count, bench.config.seed)
    return {"model": model, "processing_class": tokenizer, "train_dataset": data}


def reward_function(bench: Workbench, steps: Steps) -> Any:
    """All of our rewards as one of TRL's, which calls it by keyword with the columns of the data."""

    def reward(index: list[int], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return steps.score([bench.prompts.train[number] for number in index], completion_ids)

    return reward


def run_trl(bench: Workbench, updates: int, rows: int, make: Callable[[Steps], Trainer]) -> Outcome:
    """Train with the trainer of TRL that `make` builds around our callback."""
    with (
        StopSignal() as stop, ProgressDisplay(bench.config.trainer.steps) as display, lent(bench.language_model),
        warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("ignore", FutureWarning)  # of TRL's own use of transformers
        steps = Steps(bench, updates, rows, stop, display)
        try:
            trainer = make(steps)
            if (reference := getattr(trainer, "ref_model", None)) is not None:
                reference.load_state_dict(bench.reference.model.state_dict(), assign=True)  # one copy in memory, not two
                reference.register_forward_pre_hook(count_positions, with_kwargs=True)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(steps)
            trainer.train()
        finally:
            shutil.rmtree(bench.run.path / ".trl", ignore_errors=True)
    status = "finished" if steps.step == bench.config.trainer.steps else "interrupted"
    return Outcome(status, steps.step, steps.step * rows)

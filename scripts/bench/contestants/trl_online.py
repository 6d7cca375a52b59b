"""TRL's GRPO or RLOO trainer, a batch with its passes at each turn; it waits for its turn at the end of each batch.

Usage: trl_online.py MODEL WORK {grpo,rloo} [--fp32]
"""

import argparse
import random
import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from turns import answer, wait
from works import WORKS

MOST_ROUNDS = 100


class Turns(TrainerCallback):
    """A round is as many optimiser steps as share one batch of samples."""

    def __init__(self, passes: int, samples: int, precision: str) -> None:
        self.passes, self.samples, self.precision = passes, samples, precision
        self.start = 0.0

    def on_train_begin(self, args, state, control, **_):
        answer(loaded=True)
        self._turn(control)

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.passes == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - self.start
            answer(round_s=seconds, samples=self.samples, precision=self.precision, threads=torch.get_num_threads())
            self._turn(control)

    def _turn(self, control) -> None:
        control.should_training_stop = not wait()
        self.start = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("algorithm", choices=["grpo", "rloo"])
    parser.add_argument("--fp32", action="store_true")
    args = parser.parse_args()
    work = WORKS[args.work]
    random.seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    data = Dataset.from_dict({"prompt": work.prompts() * (work.epochs * MOST_ROUNDS)})
    config_class, trainer_class = (GRPOConfig, GRPOTrainer) if args.algorithm == "grpo" else (RLOOConfig, RLOOTrainer)
    config = config_class(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=work.minibatch, num_generations=4,
        max_completion_length=work.new_tokens, num_iterations=work.epochs, max_steps=work.epochs * MOST_ROUNDS, beta=0.05,
        learning_rate=1.41e-5, bf16=not args.fp32, report_to=[], save_strategy="no", top_k=work.top_k, top_p=work.top_p,
        gradient_checkpointing=False, generation_kwargs={"min_new_tokens": work.new_tokens},
        use_cpu=not torch.cuda.is_available(), disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer_class(
        model=args.model, args=config, train_dataset=data, processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [random.random() for _ in completions],
        callbacks=[Turns(work.epochs, work.batch, "fp32" if args.fp32 else "bf16")],
    ).train()  # fmt: skip


if __name__ == "__main__":
    main()

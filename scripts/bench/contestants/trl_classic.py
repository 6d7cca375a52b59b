"""TRL 0.11.3's PPOTrainer, the last classic PPO trainer, a batch at each turn, in an environment of its own.

Usage: trl_classic.py MODEL WORK [--minibatch 1]; 1 is how the original system configured it. fp32, as that system had it.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer
from turns import take_turns
from works import WORKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--minibatch", type=int, default=1)
    args = parser.parse_args()
    work = WORKS[args.work]
    torch.manual_seed(0)
    random.seed(0)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(args.model / "tokenizer.json"), padding_side="left")
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    model = AutoModelForCausalLMWithValueHead.from_pretrained(str(args.model))
    config = PPOConfig(
        learning_rate=1.41e-5, batch_size=work.batch, mini_batch_size=args.minibatch, ppo_epochs=work.epochs,
        gradient_accumulation_steps=work.minibatch // args.minibatch,
    )  # fmt: skip
    trainer = PPOTrainer(config=config, model=model, tokenizer=tokenizer)
    if work.prompt_tokens is None:
        batch = tokenizer(work.prompts(), return_tensors="pt", padding=True)
    else:
        longer = [24 * f"{text} " for text in work.prompts()]
        batch = tokenizer(longer, return_tensors="pt", truncation=True, max_length=work.prompt_tokens)

    batch = batch.to(trainer.accelerator.device)

    def one_round() -> dict[str, Any]:
        start = time.perf_counter()
        with torch.no_grad():
            output = trainer.model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=work.new_tokens,
                min_new_tokens=work.new_tokens, do_sample=True, top_k=work.top_k, top_p=work.top_p,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        sampled = time.perf_counter()
        rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        queries = [ids[mask.bool()] for ids, mask in rows]
        responses = list(output[:, batch["input_ids"].shape[1] :])
        trainer.step(queries, responses, [torch.tensor(random.random()) for _ in responses])
        return {
            "rollout_s": sampled - start, "update_s": time.perf_counter() - sampled, "samples": work.batch,
            "precision": "fp32", "threads": torch.get_num_threads(),
        }  # fmt: skip

    take_turns(one_round)


if __name__ == "__main__":
    main()

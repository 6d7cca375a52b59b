"""Sampling alone, a batch at each turn: llmrl's engine, or `generate` of transformers. Full distribution, exact lengths.

Usage: sampling.py MODEL {llmrl,generate} BATCH NEW_TOKENS [--fp32] [--training]

All rows have one prompt, which llmrl reads once, and the weights stay, so that it lays them out once. With --training each row
has a prompt of its own, and the weights are new in every round.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from turns import take_turns
from works import PROMPTS

from llmrl.config import ModelConfig, Precision, RolloutConfig
from llmrl.engine import has_changed
from llmrl.models.load import load
from llmrl.prompts import Prompt
from llmrl.rollout import sample


def ours(args: argparse.Namespace, texts: list[str]) -> Callable[[], int]:
    precision = Precision.fp32 if args.fp32 else Precision.bf16
    language_model = load(ModelConfig(name_or_path=args.model, precision=precision))
    language_model.stop_ids = ()  # exactly as many tokens as asked for
    config, prompts = RolloutConfig(max_new_tokens=args.new_tokens), [Prompt(text, id=text) for text in texts]
    generator = torch.Generator().manual_seed(0)

    def make() -> int:
        if args.training:
            has_changed(language_model.model.parameters())
        return int(sample(language_model, prompts, config, generator).response_mask.sum())

    return make


def theirs(args: argparse.Namespace, texts: list[str]) -> Callable[[], int]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if args.fp32 else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    batch = tokenizer(texts, return_tensors="pt").to(device)

    def make() -> int:
        with torch.inference_mode():
            output = model.generate(
                **batch, max_new_tokens=args.new_tokens, min_new_tokens=args.new_tokens, do_sample=True, top_k=0, top_p=1.0,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        return output[:, batch["input_ids"].shape[1] :].numel()

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("contestant", choices=["llmrl", "generate"])
    parser.add_argument("batch", type=int)
    parser.add_argument("new_tokens", type=int)
    parser.add_argument("--fp32", action="store_true")
    parser.add_argument("--training", action="store_true")
    args = parser.parse_args()
    texts = [f"{PROMPTS[6]} {number}" if args.training else PROMPTS[6] for number in range(args.batch)]
    make = ours(args, texts) if args.contestant == "llmrl" else theirs(args, texts)

    def one_round() -> dict[str, Any]:
        start = time.perf_counter()
        tokens = make()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return {"tokens": tokens, "rollout_s": time.perf_counter() - start, "threads": torch.get_num_threads()}

    take_turns(one_round)


if __name__ == "__main__":
    main()

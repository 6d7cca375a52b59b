"""Sampling alone, a batch at each turn: llmrl's engine, or `generate` of transformers. Full distribution, exact lengths.

Usage: sampling.py MODEL {llmrl,generate} BATCH NEW_TOKENS [--fp32]
"""

import argparse
import time
from typing import Any

import torch
from turns import take_turns
from works import PROMPTS

from llmrl.config import ModelConfig, Precision, RolloutConfig
from llmrl.models.load import load
from llmrl.prompts import Prompt
from llmrl.rollout import sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("contestant", choices=["llmrl", "generate"])
    parser.add_argument("batch", type=int)
    parser.add_argument("new_tokens", type=int)
    parser.add_argument("--fp32", action="store_true")
    args = parser.parse_args()
    precision = Precision.fp32 if args.fp32 else Precision.bf16
    language_model = load(ModelConfig(name_or_path=args.model, precision=precision))
    texts = [PROMPTS[6]] * args.batch
    generator = torch.Generator().manual_seed(0)
    if args.contestant == "llmrl":
        language_model.stop_ids = ()
        config, prompts = RolloutConfig(max_new_tokens=args.new_tokens), [Prompt(text, id=text) for text in texts]

        def make() -> int:
            return int(sample(language_model, prompts, config, generator).response_mask.sum())
    else:
        model, tokenizer = language_model.model.to(torch.float32 if args.fp32 else torch.bfloat16), language_model.tokenizer
        batch = tokenizer(texts, return_tensors="pt").to(model.device)

        def make() -> int:
            with torch.inference_mode():
                output = model.generate(
                    **batch, max_new_tokens=args.new_tokens, min_new_tokens=args.new_tokens, do_sample=True, top_k=0,
                    top_p=1.0, pad_token_id=language_model.pad_id,
                )  # fmt: skip
            return output[:, batch["input_ids"].shape[1] :].numel()

    def one_round() -> dict[str, Any]:
        start = time.perf_counter()
        tokens = make()
        if language_model.device.type == "cuda":
            torch.cuda.synchronize()
        return {"tokens": tokens, "rollout_s": time.perf_counter() - start, "threads": torch.get_num_threads()}

    take_turns(one_round)


if __name__ == "__main__":
    main()

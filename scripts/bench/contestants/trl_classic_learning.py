"""TRL 0.11.3's PPOTrainer learning `end_of_sentence` as the original system configured it, in an environment of its own.

Usage: trl_classic_learning.py MODEL SEED SAMPLES [MOST_SECONDS]. Prints one JSON line: the reward on 32 held-out prompts after
so many samples, or after so many seconds if those run out first. Reward and prompts are llmrl's own.
"""

import json
import random
import sys
import time
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast
from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

from llmrl.config import PromptsConfig
from llmrl.prompts import Prompt, load_prompts
from llmrl.rewards import Sample
from llmrl.rewards.end_of_sentence import EndOfSentence

NEW_TOKENS, BATCH, HELD_OUT = 35, 8, 32


class Learner:
    def __init__(self, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), padding_side="left")
        self.tokenizer.eos_token = self.tokenizer.pad_token = "<|endoftext|>"
        model = AutoModelForCausalLMWithValueHead.from_pretrained(str(folder))
        config = PPOConfig(
            learning_rate=1.41e-5,
            batch_size=BATCH,
            mini_batch_size=1,
            gradient_accumulation_steps=BATCH,
            ppo_epochs=4,
            seed=seed,
        )
        self.trainer = PPOTrainer(config=config, model=model, tokenizer=self.tokenizer)
        self.reward = EndOfSentence()

    def sample(self, prompts: list[Prompt], **how: float) -> tuple[list[torch.Tensor], list[torch.Tensor], list[float]]:
        """(prompts' tokens, responses' tokens, rewards)"""
        batch = self.tokenizer([prompt.text for prompt in prompts], return_tensors="pt", padding=True)
        batch = batch.to(self.trainer.accelerator.device)
        width, end = batch["input_ids"].shape[1], self.tokenizer.eos_token_id
        with torch.no_grad():
            output = self.trainer.model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=NEW_TOKENS, do_sample=True,
                pad_token_id=end, **how,
            )  # fmt: skip
        queries, responses, samples = [], [], []
        for prompt, ids, mask, row in zip(prompts, batch["input_ids"], batch["attention_mask"], output[:, width:], strict=True):
            ended = (row == end).nonzero().flatten()
            kept = row[: int(ended[0]) + 1] if len(ended) else row
            text = self.tokenizer.decode(kept, skip_special_tokens=True)
            samples.append(Sample(prompt=prompt.text, response=text, finished=len(ended) > 0, max_new_tokens=NEW_TOKENS))
            queries.append(ids[mask.bool()])
            responses.append(kept)
        return queries, responses, self.reward(samples)

    def step(self, prompts: list[Prompt]) -> None:
        queries, responses, rewards = self.sample(prompts, top_k=50, top_p=0.95)
        self.trainer.step(queries, responses, [torch.tensor(value) for value in rewards])


def main() -> None:
    folder, seed, samples = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    most = float(sys.argv[4]) if len(sys.argv) > 4 else float("inf")
    prompts, rng = load_prompts(PromptsConfig()), random.Random(seed)
    learner = Learner(folder, seed)
    begun, done = time.perf_counter(), 0  # for the limit alone: the caller's clock has the start on it, too
    while done < samples and time.perf_counter() - begun < most:
        learner.step(rng.sample(prompts.train, BATCH))
        done += BATCH
    rewards = learner.sample(prompts.held_out[:HELD_OUT], top_k=0, top_p=1.0)[2]
    print(json.dumps({"reward": sum(rewards) / len(rewards), "samples": done}))


if __name__ == "__main__":
    main()

"""A look at held-out prompts while training."""

from statistics import fmean

import torch

from llmrl.rewards import score
from llmrl.rollout import sample
from llmrl.trainers.protocol import Workbench


def held_out_reward(bench: Workbench) -> dict[str, float]:
    """`eval/reward` and `eval/<name>` of each reward: means over one response to each of the prompts looked at.

    The random stream is the evaluation's own, the same at every look: training is the same with and without it, and two looks
    differ by the model alone. Raises RunError where a reward does.
    """
    generator = torch.Generator().manual_seed(bench.config.evaluation.seed)
    size, rollout, samples = bench.config.evaluation.batch_size, bench.config.rollout, []
    for start in range(0, len(bench.looked_at), size):
        responses = sample(bench.language_model, bench.looked_at[start : start + size], rollout, generator)
        samples += responses.samples(rollout.max_new_tokens)
    scores = score(bench.rewards, samples)
    return {"eval/reward": fmean(scores.total)} | {f"eval/{name}": fmean(each) for name, each in scores.components.items()}

"""A look at held-out prompts while training."""

from statistics import fmean

import torch

from llmrl.evaluation.bootstrap import mean_interval
from llmrl.ppo.streams import shared_streams_kept
from llmrl.rewards import score
from llmrl.rollout import Distribution, response_logprobs, sample
from llmrl.trainers.protocol import Workbench


def held_out_reward(bench: Workbench) -> dict[str, float]:
    """Means over one response to each of the prompts looked at: `eval/reward` with its 95 % interval, `eval/<name>` of each
    reward, and `eval/kl`.

    The KL to the reference is in nats per response. The random stream is the evaluation's own, the same at every look: training
    is the same with and without it, and two looks differ by the model alone. Raises RunError where a reward does.
    """
    generator = torch.Generator().manual_seed(bench.config.evaluation.seed)
    size, rollout, samples, kls = bench.config.evaluation.batch_size, bench.config.rollout, [], []
    distribution = Distribution.of(bench.language_model, rollout)
    for start in range(0, len(bench.looked_at), size):
        made = sample(bench.language_model, bench.looked_at[start : start + size], rollout, generator)
        samples += made.samples(rollout.max_new_tokens)
        own, base = (response_logprobs(each, made, distribution) for each in (bench.language_model, bench.reference))
        kls += (own - base).sum(-1).tolist()
    with shared_streams_kept(bench.config.evaluation.seed):
        scores = score(bench.rewards, samples)
    components = {f"eval/{name}": fmean(values) for name, values in scores.components.items()}
    low, high = mean_interval(scores.total)
    reward = {"eval/reward": fmean(scores.total), "eval/reward_low": low, "eval/reward_high": high}
    return {**reward, "eval/kl": fmean(kls), **components}

"""Everything the optimiser learns from, worked out once per batch."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from llmrl.config import KLPlace, PPOConfig
from llmrl.engine import Lower
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy, token_statistics
from llmrl.ppo.advantages import gae, token_rewards
from llmrl.ppo.masked import whiten
from llmrl.rollout import Distribution, Rollout


@dataclass
class Experience:
    """B responses of at most T tokens to prompts of at most P, with what PPO needs to know of each token."""

    tokens: Tensor  # [B, P+T]
    attention_mask: Tensor  # [B, P+T]
    response_mask: Tensor  # [B, T], float
    logprobs: Tensor  # [B, T], of the policy before the update
    reference_logprobs: Tensor  # [B, T]
    values: Tensor  # [B, T], before the update
    entropies: Tensor  # [B, T], of the policy before the update, nats
    rewards: Tensor  # [B, T]
    advantages: Tensor  # [B, T], whitened if the config says so
    returns: Tensor  # [B, T]
    lower: Lower | None = None  # what leaves the layers that are never trained, where there are any

    def rows(self, index: Tensor) -> "Experience":
        """The experience of some of the responses."""
        chosen: dict[str, Any] = {item.name: getattr(self, item.name)[index] for item in fields(self) if item.name != "lower"}
        return Experience(**chosen, lower=None if self.lower is None else self.lower[index])

    @property
    def kl(self) -> Tensor:
        """[B, T], k1 = log p - log p_ref of each token, 0 on padding."""
        return (self.logprobs - self.reference_logprobs) * self.response_mask


def scaled_scores(scores: list[float], finished: Tensor, config: PPOConfig) -> Tensor:
    """[B]: weighted rewards divided by their scale, clipped, less the penalty of a response that was cut off."""
    total = torch.tensor(scores, dtype=torch.float32, device=finished.device) / config.score_scale
    if config.score_clip is not None:
        total = total.clamp(-config.score_clip, config.score_clip)
    return total - config.missing_eos_penalty * (~finished).float()


@torch.no_grad()
def make_experience(
    policy: Policy,
    reference: LanguageModel,
    rollout: Rollout,
    scores: list[float],
    config: PPOConfig,
    distribution: Distribution,
    kl_coef: float,
) -> Experience:
    """Score a rollout by policy and reference, some rows at a time, and work out advantages and returns.

    `scores` [B] are the weighted rewards, normalised if they are to be. The policy's log-probabilities are computed anew, in
    the passes the update will make: the ratio is then 1 before the first optimiser step whatever the precision, which the
    sampler's own, made token by token, would not give in bf16.
    """
    parts, below = [], []
    size, response_mask = config.micro_batch_size or config.minibatch_size, rollout.response_mask.float()
    columns = (rollout.tokens, rollout.attention_mask, response_mask)
    for tokens, mask, asked in zip(*(each.split(size) for each in columns), strict=True):
        lower = policy.lower(tokens, mask, asked)
        own = policy.statistics(tokens, mask, asked, distribution, lower)
        base = token_statistics(reference, tokens, mask, asked, distribution, lower)
        parts.append((own.logprobs, base.logprobs, own.values, own.entropies))
        below.append(lower)
    logprobs, reference_logprobs, values, entropies = (torch.cat(column) for column in zip(*parts, strict=True))
    rewards = token_rewards(
        scaled_scores(scores, rollout.finished, config), logprobs - reference_logprobs, response_mask,
        kl_coef if config.kl_place is KLPlace.reward else 0.0,
    )  # fmt: skip
    if config.whiten_rewards:
        rewards = whiten(rewards, response_mask, shift_mean=False)
    advantages, returns = gae(rewards, values, response_mask, config.gamma, config.gae_lambda)
    if config.whiten_advantages:
        advantages = whiten(advantages, response_mask)
    return Experience(
        tokens=rollout.tokens, attention_mask=rollout.attention_mask, response_mask=response_mask, logprobs=logprobs,
        reference_logprobs=reference_logprobs, values=values, entropies=entropies, rewards=rewards, advantages=advantages,
        returns=returns, lower=Lower.join(below),
    )  # fmt: skip

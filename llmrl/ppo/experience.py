"""Everything the optimiser learns from, worked out once per batch."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from llmrl.config import PPOConfig
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy, response_logits
from llmrl.ppo.advantages import gae, token_rewards
from llmrl.ppo.losses import entropy
from llmrl.ppo.masked import whiten
from llmrl.rewards import Scores
from llmrl.rollout import Rollout, token_logprobs


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

    def rows(self, index: Tensor) -> "Experience":
        """The experience of some of the responses."""
        return Experience(**{item.name: getattr(self, item.name)[index] for item in fields(self)})

    @property
    def kl(self) -> Tensor:
        """[B, T], k1 = log p - log p_ref of each token, 0 on padding."""
        return (self.logprobs - self.reference_logprobs) * self.response_mask


def scaled_scores(scores: Scores, finished: Tensor, config: PPOConfig) -> Tensor:
    """[B]: the weighted reward divided by its scale, clipped, less the penalty of a response that did not end by itself."""
    total = torch.tensor(scores.total, dtype=torch.float32, device=finished.device) / config.score_scale
    if config.score_clip is not None:
        total = total.clamp(-config.score_clip, config.score_clip)
    return total - config.missing_eos_penalty * (~finished).float()


@torch.no_grad()
def make_experience(
    policy: Policy,
    reference: LanguageModel,
    rollout: Rollout,
    scores: Scores,
    config: PPOConfig,
    temperature: float,
) -> Experience:
    """Score a rollout by policy and reference, a minibatch at a time, and work out advantages and returns.

    The policy's log-probabilities are computed anew, in the passes the update will make: the ratio is then 1 before the first
    optimiser step whatever the precision, which the sampler's own, made token by token, would not give in bf16.
    """
    parts = []
    length = rollout.response_length
    for tokens, mask in zip(
        rollout.tokens.split(config.minibatch_size), rollout.attention_mask.split(config.minibatch_size), strict=True
    ):
        responses = tokens[:, -length:]
        outputs = policy(tokens, mask, length)
        reference_outputs = response_logits(reference, tokens, mask, length)
        parts.append(
            (
                token_logprobs(outputs.logits, responses, temperature),
                token_logprobs(reference_outputs, responses, temperature),
                outputs.values,
                entropy(outputs.logits.float() / temperature),
            )
        )
    response_mask = rollout.response_mask.float()
    logprobs, reference_logprobs, values, entropies = (torch.cat(column) * response_mask for column in zip(*parts, strict=True))
    kl = logprobs - reference_logprobs
    rewards = token_rewards(scaled_scores(scores, rollout.finished, config), kl, response_mask, config.kl_coef)
    advantages, returns = gae(rewards, values, response_mask, config.gamma, config.gae_lambda)
    if config.whiten_advantages:
        advantages = whiten(advantages, response_mask)
    return Experience(
        tokens=rollout.tokens, attention_mask=rollout.attention_mask, response_mask=response_mask, logprobs=logprobs,
        reference_logprobs=reference_logprobs, values=values, entropies=entropies, rewards=rewards, advantages=advantages,
        returns=returns,
    )  # fmt: skip

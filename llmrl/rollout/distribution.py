"""The sampling distribution (temperature, top-k, top-p), and log-probabilities at the same temperature."""

import torch
from torch import Tensor

from llmrl.config import RolloutConfig


def warp(logits: Tensor, config: RolloutConfig) -> Tensor:
    """[..., V] fp32 logits of the distribution that is sampled from; tokens left out become -inf.

    Dividing by the temperature here and not elsewhere would make the KL rise by itself (Huang et al., The N Implementation
    Details of RLHF with PPO, 2023).
    """
    logits = logits.float() / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        threshold = logits.topk(config.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if config.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the likelier tokens: the first is always kept
        outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= config.top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [B, T] of `tokens` [B, T] under softmax(logits [B, T, V] / temperature), in nats.

    Top-k and top-p are not applied: training warns where they are set.
    """
    logits = logits.float() / temperature
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)

"""From scores to per-token rewards, and from those to advantages and returns."""

import torch
from torch import Tensor


def token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """[B, T]: minus `kl_coef` times the KL of each token, and the whole score [B] on the last real token.

    With k1 = log p - log p_ref as the KL, its gradient is unbiased when it stands in the reward, and only there
    (arXiv 2512.21852). Ziegler et al., Fine-Tuning Language Models from Human Preferences, 2019, section 2.
    """
    rewards = -kl_coef * kl * response_mask
    last = (response_mask.sum(-1, keepdim=True) - 1).clamp(min=0).long()
    return rewards.scatter_add(-1, last, scores.unsqueeze(-1).to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(advantages, returns), [B, T] each, by generalised advantage estimation (Schulman et al. 2016, equations 11 and 16).

    The episode ends after its last real token: the value of what follows is 0. Both are 0 on padding.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        real = response_mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * real
        advantages[:, t] = following
        next_value = values[:, t] * real
    return advantages, (advantages + values) * response_mask

"""The clipped losses of PPO. Pure functions of tensors; every mean is over real tokens.

Legend: b responses, t tokens of a response. Source: Schulman et al., Proximal Policy Optimization Algorithms, 2017, and
openai/lm-human-preferences, `train_policy.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.config import KLEstimator
from llmrl.ppo.masked import masked_mean, masked_var


@dataclass
class PolicyLoss:
    loss: Tensor  # scalar, differentiable
    approx_kl: Tensor  # scalar, nats per token: half the mean squared log-ratio
    clipfrac: Tensor  # scalar, share of tokens whose clipped loss is the larger
    ratio: Tensor  # scalar, mean probability ratio


@dataclass
class ValueLoss:
    loss: Tensor  # scalar, differentiable
    clipfrac: Tensor  # scalar, share of tokens whose clipped loss is the larger
    error: Tensor  # scalar, mean squared error before clipping


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_range: float) -> PolicyLoss:
    """-min(r A, clip(r, 1 -+ clip_range) A) with r = exp(logprobs - old_logprobs); all arguments [b, t], equation 7."""
    log_ratio = (logprobs - old_logprobs) * mask
    ratio = log_ratio.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    with torch.no_grad():
        approx_kl = 0.5 * masked_mean(log_ratio.square(), mask)
        clipfrac = masked_mean((clipped > plain).float(), mask)
        mean_ratio = masked_mean(ratio, mask)
    return PolicyLoss(masked_mean(torch.maximum(plain, clipped), mask), approx_kl, clipfrac, mean_ratio)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float) -> ValueLoss:
    """Half the larger squared error of the values and of the values clipped to `clip_range` about the old; all [b, t]."""
    clipped_values = values.clamp(old_values - clip_range, old_values + clip_range)  # inside, the value itself to the bit
    plain = (values - returns).square()
    clipped = (clipped_values - returns).square()
    with torch.no_grad():
        clipfrac = masked_mean((clipped > plain).float(), mask)
        error = masked_mean(plain, mask)
    return ValueLoss(0.5 * masked_mean(torch.maximum(plain, clipped), mask), clipfrac, error)


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """KL(policy || reference) of each token from its log-probabilities, any equal shapes, in nats; differentiable.

    With d = log p_ref - log p: k1 = -d, unbiased; k2 = d^2 / 2, biased, never negative; k3 = e^d - 1 - d, unbiased and never
    negative. As a term of a loss, only k2 has the gradient of the KL itself, and that of k1 is zero on average (Schulman,
    Approximating KL Divergence, 2020; arXiv 2512.21852).
    """
    d = reference_logprobs - logprobs
    if estimator is KLEstimator.k1:
        return -d
    return 0.5 * d.square() if estimator is KLEstimator.k2 else d.exp() - 1 - d


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns), a scalar: 1 is perfect, 0 no better than a constant, below 0 worse."""
    return 1 - masked_var(returns - values, mask) / masked_var(returns, mask).clamp(min=1e-8)

"""Statistics over real tokens only. Padding must never enter a mean, a variance or a loss."""

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is 1, a scalar; any equal shapes."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Variance of `values` where `mask` is 1, a scalar, without Bessel's correction, as in openai/lm-human-preferences."""
    return masked_mean((values - masked_mean(values, mask)).square(), mask)


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale to unit variance over real tokens; remove the mean too, or keep it (`shift_mean=False`). 0 on padding.

    Advantages are whitened with the mean removed, rewards with the mean kept (lm-human-preferences, `whiten`).
    """
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_var(values, mask) + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask

"""What a layer is made of, for passes over packed tokens [N, width] with gradients and for decoding a token a row."""

import torch
import torch.nn.functional as F
from torch import Tensor


class _Embedding(torch.autograd.Function):
    """Rows of a table, whose gradient is added to the rows that were read: autograd's own is a table full of zeros."""

    @staticmethod
    def forward(ctx, ids: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.table = table
        return table.detach()[ids]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        table = ctx.table
        if table.grad is None:
            table.grad = torch.zeros_like(table)
        ids, which = ctx.saved_tensors[0].unique(return_inverse=True)
        sums = torch.zeros(len(ids), gradient.shape[-1], device=gradient.device).index_add_(0, which, gradient.float())
        table.grad.index_add_(0, ids, sums.to(table.dtype))
        return None, None


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """ids [N], table [V, width] -> [N, width]; going backwards, adds to `table.grad` if it wants one."""
    return _Embedding.apply(ids, table) if table.requires_grad else F.embedding(ids, table)  # type: ignore[return-value]


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight, in fp32, given back in the precision of products (Zhang and Sennrich, 2019)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        product = gradient * normed  # fp32
        dweight = product.sum(0) if ctx.needs_input_grad[1] else None
        inner = product.mul_(weight).mean(-1, keepdim=True)
        return torch.mul(gradient, weight).sub_(normed.mul_(inner)).mul_(scale), dweight, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x [N, width] in fp32 -> `dtype`; differentiable in x and weight."""
    if not torch.is_grad_enabled():
        return F.rms_norm(x, x.shape[-1:], weight, eps).to(dtype)  # the same to the bit
    return _RMSNorm.apply(x, weight, eps, dtype)  # type: ignore[return-value]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x [N, width] in fp32 -> `dtype`; differentiable."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps).to(dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos).add_(x.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)  # in fp32, as the angles are


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, -sin), None, None  # turned back


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [N, heads, width] by the angles of its positions (Su et al., RoFormer, 2021).

    cos, sin [N, 1, width] in fp32; those of the first half are repeated in the second, with sin negative in the first.
    """
    if not torch.is_grad_enabled():
        return _rotated(x, cos, sin)
    return _Rotary.apply(x, cos, sin)  # type: ignore[return-value]


SHORT = 384
"""Up to so many tokens, products over the whole square with the softmax between them beat fused attention going backwards."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, short: bool) -> Tensor:
    """q [B, L, heads, width], k, v [B, L, key heads, width] -> [B, L, heads * width]; differentiable.

    Rows are padded on the right, where a causal mask hides the padding from all that is real. `short` chooses the way that is
    faster for rows of up to `SHORT` tokens; in bf16 the two round differently, so that all passes over a row should agree.
    """
    rows, length, heads, width = q.shape
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if not short or q.device.type != "cpu":
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=k.shape[1] != heads)
        return out.transpose(1, 2).flatten(2)
    groups, shared = k.shape[1], heads // k.shape[1]
    q = q.reshape(rows * groups, shared * length, width)
    k, v = k.reshape(rows * groups, length, width), v.reshape(rows * groups, length, width)
    later = torch.full((length, length), -torch.inf, dtype=q.dtype, device=q.device).triu(1).repeat(shared, 1)
    weights = torch.baddbmm(later, q, k.transpose(1, 2), alpha=scale).softmax(-1)
    return torch.bmm(weights, v).view(rows, heads, length, width).transpose(1, 2).flatten(2)

"""Log-probabilities of given tokens from the states the output layer reads, some rows at a time.

The logits of a batch would be its largest tensor by far (M x V numbers), and turning them over in fp32 would cost more than
the products that make them. Here a few rows of them exist at a time, and where a gradient is wanted it is made at once from
the same rows: nothing is kept for later, nothing is computed twice.

Legend: M positions, V tokens in the vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Warp = Callable[[Tensor, Tensor], Tensor]
"""(fp32 logits [m, V], steps [m]) -> logits of the distribution responses are drawn from; may work in place."""

Loss = Callable[[slice, Tensor, Tensor | None, Tensor], Tensor]
"""(which of the M positions, log-probabilities [m], entropies [m] or None, values [m]) -> scalar, differentiable in them."""

PRODUCT_BYTES = 1 << 26
"""Logits at a time, as a product makes them: many rows make products fast, and one of them is the weights' whole gradient."""

CACHE_BYTES = 1 << 24
"""fp32 logits at a time: they are read several times over and should stay in the processor's cache meanwhile."""

TOKENS = 1 << 12
"""Of the vocabulary at a time, for the gradient of their weights."""

ON_ACCELERATOR = 16
"""Times as much at a time where memory is fast and starting a kernel costs more than what it does."""


def _slices(rows: Tensor, vocabulary: int, number_bytes: int, limit: int) -> Iterator[slice]:
    """Of the first dimension, so that as many rows of logits stay within the limit; eight at least."""
    limit *= 1 if rows.device.type == "cpu" else ON_ACCELERATOR
    size = max(limit // (number_bytes * vocabulary) // 8 * 8, 8)
    return (slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size))


@torch.no_grad()
def logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, steps: Tensor, warp: Warp | None) -> tuple[Tensor, Tensor]:
    """(log-probabilities [M] of `targets`, entropies [M]) from `hidden` [M, width] and `weight` [V, width], nats, fp32."""
    found = torch.empty(len(hidden), device=hidden.device)
    entropies = torch.empty_like(found)
    for many in _slices(hidden, len(weight), hidden.element_size(), PRODUCT_BYTES):
        logits = F.linear(hidden[many], weight)
        for few in _slices(logits, len(weight), 4, CACHE_BYTES):
            rows = slice(many.start + few.start, many.start + few.stop)
            distribution = _distribution(logits[few], steps[rows], warp)
            found[rows] = distribution.gather(-1, targets[rows].unsqueeze(-1)).squeeze(-1)
            entropies[rows] = -distribution.mul_(distribution.exp()).sum(-1)
    return found, entropies


def _distribution(logits: Tensor, steps: Tensor, warp: Warp | None) -> Tensor:
    """[m, V] logits as a product made them -> log-probabilities of every token, fp32."""
    return torch.log_softmax(logits if warp is None else warp(logits.float(), steps), -1, dtype=torch.float32)


@dataclass
class Objective:
    """What the gradient is of: a loss that adds up over tokens, under the distribution responses are drawn from."""

    loss: Loss
    warp: Warp | None = None
    temperature: float = 1.0  # what `warp` divides logits by
    with_entropy: bool = False  # whether `loss` wants entropies


def backward(
    hidden: Tensor, weight: Tensor, targets: Tensor, steps: Tensor, value_head: nn.Module, objective: Objective
) -> Tensor:
    """Add the loss's gradient to `weight.grad` (if it wants one) and to the value head; return that of `hidden` [M, width].

    With p the distribution and g the loss's derivative in the log-probability of token t, the derivative in the logits is
    g (1[t] - p) / temperature; an entropy H with derivative h adds -h p (log p + H) / temperature.
    """
    gradient = torch.empty_like(hidden)
    for many in _slices(hidden, len(weight), hidden.element_size(), PRODUCT_BYTES):
        with torch.no_grad():
            logits = F.linear(hidden[many], weight)
        for few in _slices(logits, len(weight), 4, CACHE_BYTES):
            rows = slice(many.start + few.start, many.start + few.stop)
            leaf = hidden[rows].detach().requires_grad_()
            _to_gradient(logits[few], targets[rows], steps[rows], rows, value_head(leaf), objective)
            gradient[rows] = leaf.grad  # type: ignore[assignment]
        with torch.no_grad():
            gradient[many].addmm_(logits, weight)
            if weight.requires_grad:
                _add_weight_gradient(weight, logits, hidden[many])
    return gradient


def _add_weight_gradient(weight: Tensor, slopes: Tensor, hidden: Tensor) -> None:
    """slopes [m, V], the derivative in the logits; some tokens at a time, as matrices that fit the cache are turned faster."""
    size = len(weight) if weight.device.type != "cpu" else TOKENS
    is_first = weight.grad is None
    if is_first:
        weight.grad = torch.empty_like(weight)
    for some, found in zip(slopes.split(size, -1), weight.grad.split(size), strict=True):  # type: ignore[union-attr]
        if is_first:
            torch.mm(some.t(), hidden, out=found)
        else:
            found.addmm_(some.t(), hidden)


def _to_gradient(logits: Tensor, targets: Tensor, steps: Tensor, rows: slice, values: Tensor, objective: Objective) -> None:
    """Turn a few rows of logits [m, V] into the loss's derivative in them, in place."""
    with torch.no_grad():
        distribution = _distribution(logits, steps, objective.warp)
        found = distribution.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        probabilities = distribution.exp() if objective.with_entropy else distribution.exp_()
        entropies = -(distribution * probabilities).sum(-1) if objective.with_entropy else None
    for each in (found, entropies):
        if each is not None:
            each.requires_grad_()
    objective.loss(rows, found, entropies, values).backward()
    with torch.no_grad():
        slope = found.grad.unsqueeze(-1) / objective.temperature  # type: ignore[union-attr]
        if entropies is None:
            probabilities.mul_(-slope)
        else:
            bend = entropies.grad.unsqueeze(-1) / objective.temperature  # type: ignore[union-attr]
            probabilities.mul_(distribution.add_(entropies.unsqueeze(-1)).mul_(-bend).sub_(slope))
        probabilities.scatter_add_(-1, targets.unsqueeze(-1), slope)
        logits.copy_(probabilities)

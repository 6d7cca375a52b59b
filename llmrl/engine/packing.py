"""Batches without their padding: the real tokens of all rows, one after the other.

Legend: B rows of prompts padded left and responses padded right, N real tokens that are read, L the most of them in a row, M of
them that predict a response token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.engine.layers import SHORT, causal_attention


@dataclass
class Packed:
    """What a pass reads and what it predicts. A row's last token is not read: nothing comes after it."""

    ids: Tensor  # [N]
    row: Tensor  # [N]
    at: Tensor  # [N], its place in the [B * (P+T-1)] that was given
    shape: tuple[int, int]  # B, P+T-1
    positions: Tensor  # [N], from 0 in each row
    longest: int  # L
    places: Tensor | None  # [N], of each token in a [B * L] grid whose rows are padded on the right; None where it is full
    predicting: Tensor  # [M], indices into N
    targets: Tensor  # [M], the response token that comes after each of those
    where: Tensor  # [M], its place in the responses [B * T]
    steps: Tensor  # [M], how many tokens of the response come before it


def pack(tokens: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Packed:
    """tokens, attention_mask [B, P+T]; response_mask [B, T], 1 on the tokens whose probability is asked for."""
    rows, width = tokens.shape
    length = response_mask.shape[1]
    real = attention_mask.bool()
    read = real[:, :-1] & real[:, 1:]
    counts = read.sum(-1)
    longest = int(counts.max())
    at = read.flatten().nonzero().squeeze(-1)
    row, column = at // (width - 1), at % (width - 1)
    positions = column - read.int().argmax(-1)[row]
    is_predicting = torch.zeros_like(read)
    is_predicting[:, width - 1 - length :] = response_mask.bool()
    predicting = is_predicting.flatten()[at].nonzero().squeeze(-1)
    next_column = column[predicting] + 1
    step = next_column - (width - length)
    return Packed(
        ids=tokens[:, :-1].flatten()[at],
        row=row,
        at=at,
        shape=(rows, width - 1),
        positions=positions,
        longest=longest,
        places=None if len(at) == rows * longest else row * longest + positions,
        predicting=predicting,
        targets=tokens[row[predicting], next_column],
        where=row[predicting] * length + step,
        steps=step,
    )


def pack_prompts(tokens: Tensor, attention_mask: Tensor) -> Packed:
    """tokens, attention_mask [B, P], padded on the left: every token is read, and the last of each row predicts."""
    following = tokens.new_zeros(len(tokens), 1)  # any token: nothing reads it
    real = torch.ones_like(following)
    return pack(torch.cat([tokens, following], 1), torch.cat([attention_mask, real], 1), real)


@dataclass
class Lower:
    """What leaves the lowest layers of a model, for the passes that begin above them."""

    states: Tensor  # [B, P+T-1, width], 0 where nothing is read
    layers: int

    def __getitem__(self, rows: Tensor) -> "Lower":
        return Lower(self.states[rows], self.layers)

    @classmethod
    def join(cls, parts: "Sequence[Lower | None]") -> "Lower | None":
        """Rows after rows, all or none of them there."""
        found = [part for part in parts if part is not None]
        return cls(torch.cat([part.states for part in found]), found[0].layers) if found else None

    @classmethod
    def of(cls, states: Tensor, packed: Packed, layers: int) -> "Lower":
        """`states` [N, width]."""
        grid = states.new_zeros(packed.shape[0] * packed.shape[1], states.shape[-1]).index_copy_(0, packed.at, states)
        return cls(grid.view(*packed.shape, -1), layers)

    def packed(self, packed: Packed) -> Tensor:
        """[N, width]"""
        return self.states.flatten(0, 1).index_select(0, packed.at)


class _ToGrid(torch.autograd.Function):
    """[N, ...] -> [B * L, ...] with zeros for padding. Every token has one place: copies both ways, no sums."""

    @staticmethod
    def forward(ctx, packed: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        grid = packed.new_zeros(size, *packed.shape[1:])
        return grid.index_copy_(0, places, packed)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _FromGrid(torch.autograd.Function):
    """[B * L, ...] -> [N, ...]: what stands on padding is dropped."""

    @staticmethod
    def forward(ctx, grid: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = grid.shape[0]
        return grid.index_select(0, places)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grid = gradient.new_zeros(ctx.size, *gradient.shape[1:])
        return grid.index_copy_(0, ctx.saved_tensors[0], gradient), None


def to_grid(values: Tensor, packed: Packed) -> Tensor:
    """[N, width] -> [B, L, width]; differentiable."""
    if packed.places is not None:
        values = _ToGrid.apply(values, packed.places, packed.shape[0] * packed.longest)  # type: ignore[assignment]
    return values.view(packed.shape[0], packed.longest, -1)


def from_grid(grid: Tensor, packed: Packed) -> Tensor:
    """[B, L, width] -> [N, width]; differentiable."""
    values = grid.reshape(packed.shape[0] * packed.longest, -1)
    return values if packed.places is None else _FromGrid.apply(values, packed.places)  # type: ignore[return-value]


def attend_within(packed: Packed, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """q [N, heads, width], k, v [N, key heads, width] -> [N, heads * width]: each row's tokens attend to it alone."""
    grids = [to_grid(each.flatten(1), packed).unflatten(-1, each.shape[1:]) for each in (q, k, v)]
    return from_grid(causal_attention(*grids, scale=scale, short=packed.shape[1] <= SHORT), packed)

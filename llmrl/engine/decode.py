"""Sampling's passes: prompts read once, then one token a row, with keys and values kept in place.

Legend: B rows, P columns of prompts padded on the left, G key heads, C columns of room. All rows write the same column at a
time, so that a token's keys and values are one copy; what stands left of a prompt is hidden from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llmrl.engine.families import Attend, Family, Layer, Linear, Several
from llmrl.engine.packing import Packed, attend_within, pack_prompts


def _can_prepack(like: Tensor) -> bool:
    """Whether oneDNN can lay weights out for itself once, and not in each product: for few rows that is most of its time."""
    return like.device.type == "cpu" and like.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()


@dataclass
class _Prepacked:
    """Linear layers that read the same as one product, their weights laid out for it."""

    weight: Tensor
    bias: Tensor | None
    widths: list[int]

    @classmethod
    def of(cls, linears: Sequence[Linear], widths: list[int], rows: int) -> "_Prepacked":
        matrix = torch.cat([each.matrix for each in linears]) if len(linears) > 1 else linears[0].matrix
        biases = [each.bias.working for each in linears if each.bias is not None]
        return cls(_laid_out(matrix, rows), torch.cat(biases) if biases else None, widths)

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        return _product(x, self.weight, self.bias).split(self.widths, -1)


def _laid_out(matrix: Tensor, rows: int) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(matrix.detach(), rows)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@dataclass
class _PrepackedOne:
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return _product(x, self.weight, self.bias)


def _prepacked_layer(layer: Layer, rows: int) -> Layer:
    def one(linear: Callable[[Tensor], Tensor]) -> _PrepackedOne:
        assert isinstance(linear, Linear)
        return _PrepackedOne(_laid_out(linear.matrix, rows), linear.bias.working if linear.bias else None)

    def several(products: Callable[[Tensor], Sequence[Tensor]]) -> _Prepacked:
        assert isinstance(products, Several)
        return _Prepacked.of(products.linears, products.widths, rows)

    return replace(layer, qkv=several(layer.qkv), out=one(layer.out), up=several(layer.up), down=one(layer.down))


class Decoder:
    """Logits of the next token of B rows, again and again. Reads the weights as they are when it is made."""

    def __init__(self, family: Family, room: int) -> None:
        """`room` is C, the columns of prompts and responses together."""
        self.family = family
        self.room = room
        self.at = 0
        self.keys: list[Tensor] = []  # a layer each, [B * G, C, head width]
        self.values: list[Tensor] = []
        self._head: Tensor | None = None
        self.hidden_columns: Tensor | None = None  # [B * G, 1, C], -inf on padding
        self.lengths = torch.empty(0)

    @torch.inference_mode()
    def read(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """tokens, attention_mask [B, P] -> logits [B, V] of what comes after them."""
        family, (rows, width) = self.family, tokens.shape
        packed = pack_prompts(tokens, attention_mask)
        self.at, self.lengths = width, attention_mask.sum(-1)
        size = (rows, family.key_heads, self.room, family.head_width)
        like = family.head.working
        for _ in family.layers:
            self.keys.append(like.new_zeros(size).flatten(0, 1))
            self.values.append(like.new_zeros(size).flatten(0, 1))
        padding = width - self.lengths
        if int(padding.max()):
            columns = torch.arange(self.room, device=tokens.device) < padding.unsqueeze(-1)
            hidden = torch.zeros(rows, self.room, dtype=like.dtype, device=tokens.device).masked_fill(columns, -torch.inf)
            self.hidden_columns = hidden.repeat_interleave(family.key_heads, 0).unsqueeze(1)
        places = (packed.row * self.room + padding[packed.row] + packed.positions).unsqueeze(-1)
        self._places = places
        logits = self._logits(packed.ids, packed.positions, lambda *qkv: self._attend_within(packed, *qkv), packed.predicting)
        if _can_prepack(like):
            self.family = replace(family, layers=[_prepacked_layer(layer, rows) for layer in family.layers])
            self._head = _laid_out(family.head.working, rows)
        return logits

    @torch.inference_mode()
    def step(self, new: Tensor) -> Tensor:
        """new [B], the tokens that were chosen -> logits [B, V] of what comes after them."""
        positions, self.lengths = self.lengths, self.lengths + 1
        self.at += 1
        return self._logits(new, positions, self._attend_to_all, None)

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, [B'] indices into B."""
        heads = torch.arange(self.family.key_heads, device=rows.device)
        flat = (rows.unsqueeze(-1) * self.family.key_heads + heads).flatten()
        for cache in (self.keys, self.values):
            for number, each in enumerate(cache):
                kept = each.new_empty(len(flat), self.room, each.shape[-1])
                kept[:, : self.at] = each[flat, : self.at]
                cache[number] = kept
        self.lengths = self.lengths[rows]
        if self.hidden_columns is not None:
            self.hidden_columns = self.hidden_columns[flat]

    def _logits(self, ids: Tensor, positions: Tensor, attend: Attend, wanted: Tensor | None) -> Tensor:
        family = self.family
        x = family.through(family.embed(ids, positions), positions, attend, range(len(family.layers) - 1))
        hidden = family.finish(x, positions, attend, wanted)
        return F.linear(hidden, self.family.head.working) if self._head is None else _product(hidden, self._head, None)

    def _attend_within(self, packed: Packed, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Prompts attend to themselves; their keys and values [N, G, width] go to their columns."""
        heads = torch.arange(k.shape[1], device=k.device)
        row, column = self._places // self.room, self._places % self.room
        for cache, new in ((self.keys, k), (self.values, v)):
            cache[number][row * len(heads) + heads, column] = new
        return attend_within(packed, q, k, v, self.family.scales[number])

    def _attend_to_all(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One token a row attends to all that its row has: q [B, heads, width], k, v [B, G, width]."""
        keys, values, scale = self.keys[number], self.values[number], self.family.scales[number]
        keys[:, self.at - 1], values[:, self.at - 1] = k.flatten(0, 1), v.flatten(0, 1)
        keys, values = keys[:, : self.at], values[:, : self.at]
        q = q.reshape(len(keys), -1, q.shape[-1])
        if self.hidden_columns is None:
            weights = torch.bmm(q, keys.transpose(1, 2)).mul_(scale)
        else:
            hidden = self.hidden_columns[:, :, : self.at].expand(-1, q.shape[1], -1)
            weights = torch.baddbmm(hidden, q, keys.transpose(1, 2), alpha=scale)
        return torch.bmm(weights.softmax(-1), values).view(len(k), -1)

"""Sampling's passes: prompts read once, then one token a row, with keys and values kept in place.

Legend: B rows, P columns of prompts padded on the left, G key heads, C columns of cache. All rows write the same column at
a time, so that a token's keys and values are one copy; what stands left of a prompt is hidden from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llmrl.engine.families import Angles, Attend, Family, Heads, Inner, Layer, Linear
from llmrl.engine.layers import rotary
from llmrl.engine.packing import attend_within, pack_prompts
from llmrl.engine.prepacked import ACTIVATIONS, Prepacked, can_prepack


@dataclass
class _PrepackedHeads:
    """Queries, keys and values as one product, queries and keys turned as one."""

    product: Prepacked
    counts: tuple[int, int, int]  # heads of q, k and v
    head_width: int

    def __call__(self, x: Tensor, angles: Angles | None) -> tuple[Tensor, Tensor, Tensor]:
        heads, (queries, keys, _) = self.product(x).view(len(x), -1, self.head_width), self.counts
        if angles is None:
            q, k, v = heads.split(self.counts, 1)
            return q, k, v
        turned = rotary(heads[:, : queries + keys], *angles)
        return turned[:, :queries], turned[:, queries:], heads[:, queries + keys :]


def _prepacked(linears: Sequence[Linear]) -> Prepacked:
    return Prepacked.of([each.matrix for each in linears], [each.bias.working for each in linears if each.bias is not None])


def _prepacked_layer(layer: Layer) -> Layer:
    heads, out, inner, down = layer.heads, layer.out, layer.inner, layer.down
    assert isinstance(heads, Heads)
    assert isinstance(out, Linear)
    assert isinstance(inner, Inner)
    assert isinstance(down, Linear)
    q, k, v = (width // heads.head_width for width in heads.products.widths)
    up = _prepacked(inner.up.linears)
    if len(inner.up.widths) == 1 and inner.activation in ACTIVATIONS:
        up.then = ACTIVATIONS[inner.activation]
        activated: Callable[[Tensor], Tensor] = up
    else:
        activated = lambda x: inner.activated(up(x).split(inner.up.widths, -1))  # noqa: E731
    return replace(
        layer, heads=_PrepackedHeads(_prepacked(heads.products.linears), (q, k, v), heads.head_width),
        out=_prepacked([out]), inner=activated, down=_prepacked([down]),
    )  # fmt: skip


@dataclass
class LaidOut:
    """A model's weights as decoding reads them, at the versions they had."""

    family: Family
    head: Callable[[Tensor], Tensor]
    versions: list[int]

    @classmethod
    @torch.inference_mode()
    def of(cls, family: Family, versions: list[int]) -> "LaidOut":
        head = Linear(family.head)
        if not can_prepack(family.head.working):
            return cls(family, head, versions)
        return cls(replace(family, layers=[_prepacked_layer(layer) for layer in family.layers]), _prepacked([head]), versions)


BLOCK = 32
"""Columns that the cache grows by. Products want keys that lie close together: what is not yet written is hidden instead."""


class Decoder:
    """Logits of the next token of B rows, again and again."""

    def __init__(self, weights: LaidOut) -> None:
        self.family, self._head = weights.family, weights.head
        self._keys: list[Tensor] = []  # a layer each, [B * G, C, head width]
        self._values: list[Tensor] = []
        self._hidden = torch.empty(0)  # [B * G, 1, C], -inf where there is padding or nothing yet
        self._lengths = torch.empty(0)  # [B], tokens of each row
        self._written = 0  # columns

    @torch.inference_mode()
    def read(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """tokens, attention_mask [B, P], padded on the left -> logits [B, V] of what comes after them.

        Prompts that stand in several rows are read once.
        """
        prompts, row = torch.stack([tokens, attention_mask], 1).unique(dim=0, return_inverse=True)
        if len(prompts) == len(tokens):
            return self._read(tokens, attention_mask)
        logits = self._read(prompts[:, 0], prompts[:, 1])
        self.keep(row)
        return logits[row]

    def _read(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        family, (rows, width) = self.family, tokens.shape
        like, packed = family.head.working, pack_prompts(tokens, attention_mask)
        self._written, self._lengths = width, attention_mask.sum(-1)
        size = (rows * family.key_heads, _blocks(width + 1), family.head_width)
        self._keys, self._values = ([like.new_zeros(size) for _ in family.layers] for _ in range(2))
        self._hidden = like.new_full((size[0], 1, size[1]), -torch.inf)
        hidden = torch.zeros_like(attention_mask, dtype=like.dtype).masked_fill_(attention_mask == 0, -torch.inf)
        self._hidden[:, 0, :width] = hidden.repeat_interleave(family.key_heads, 0)
        row = packed.row * family.key_heads
        column = width - self._lengths[packed.row] + packed.positions

        def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            """Prompts attend to themselves; their keys and values [N, G, width] go to their columns."""
            for cache, new in ((self._keys, k), (self._values, v)):
                for head in range(family.key_heads):
                    cache[number][row + head, column] = new[:, head]
            return attend_within(packed, q, k, v, family.scales[number])

        return self._logits(packed.ids, packed.positions, attend, packed.predicting)

    @torch.inference_mode()
    def step(self, new: Tensor) -> Tensor:
        """new [B], the tokens that were chosen -> logits [B, V] of what comes after them."""
        positions, self._lengths = self._lengths, self._lengths + 1
        self._written += 1
        if self._written > self._hidden.shape[-1]:
            more = _blocks(self._written) - self._hidden.shape[-1]
            for cache in (self._keys, self._values):
                for number, each in enumerate(cache):  # one at a time: a layer's old place is the next one's new
                    cache[number] = F.pad(each, (0, 0, 0, more))
            self._hidden = F.pad(self._hidden, (0, more), value=-torch.inf)
        self._hidden[:, :, self._written - 1] = 0
        return self._logits(new, positions, self._attend, None)

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, [B'] indices into B."""
        heads = torch.arange(self.family.key_heads, device=rows.device)
        flat = (rows.unsqueeze(-1) * self.family.key_heads + heads).flatten()
        self._keys, self._values = ([each[flat] for each in cache] for cache in (self._keys, self._values))
        self._hidden, self._lengths = self._hidden[flat], self._lengths[rows]

    def _logits(self, ids: Tensor, positions: Tensor, attend: Attend, wanted: Tensor | None) -> Tensor:
        family = self.family
        x = family.through(family.embed(ids, positions), positions, attend, range(len(family.layers) - 1))
        return self._head(family.finish(x, positions, attend, wanted))

    def _attend(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One token a row attends to all that its row has: q [B, heads, width], k, v [B, G, width]."""
        keys, values = self._keys[number], self._values[number]
        keys[:, self._written - 1], values[:, self._written - 1] = k.flatten(0, 1), v.flatten(0, 1)
        q = q.reshape(len(keys), -1, q.shape[-1])
        hidden = self._hidden.expand(-1, q.shape[1], -1)
        weights = torch.baddbmm(hidden, q, keys.transpose(1, 2), alpha=self.family.scales[number]).softmax(-1)
        return torch.bmm(weights, values).view(len(k), -1)


def _blocks(columns: int) -> int:
    return -(-columns // BLOCK) * BLOCK

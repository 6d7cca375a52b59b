"""What gives the next token's logits: the engine's decoder where there is one, else the model's own forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from llmrl.models.load import LanguageModel
from llmrl.models.policy import position_ids


class Decoding(Protocol):
    """Logits of the next token of B rows, again and again."""

    def read(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """tokens, attention_mask [B, P], padded on the left -> logits [B, V] of what comes after them."""
        ...

    def step(self, new: Tensor) -> Tensor:
        """new [B], the tokens that were chosen -> logits [B, V] of what comes after them."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, [B'] indices into B."""
        ...


class PlainDecoder:
    """By the model's own forward pass and the cache that comes with it; any causal language model of transformers."""

    def __init__(self, language_model: LanguageModel) -> None:
        self.language_model = language_model
        self.cache = None
        self.mask = torch.empty(0)

    def read(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        self.mask = attention_mask
        return self._forward(tokens)

    def step(self, new: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        return self._forward(new.unsqueeze(1))

    def keep(self, rows: Tensor) -> None:
        self.mask = self.mask[rows]
        self.cache.reorder_cache(rows)  # type: ignore[union-attr]

    def _forward(self, tokens: Tensor) -> Tensor:
        with self.language_model.autocast():
            output = self.language_model.model(
                input_ids=tokens,
                attention_mask=self.mask,
                position_ids=position_ids(self.mask)[:, -tokens.shape[1] :],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.cache = output.past_key_values
        return output.logits[:, -1]


@contextmanager
def decoding(language_model: LanguageModel) -> Iterator[Decoding]:
    """For sampling with the weights as they are now, inside this context.

    Autocast brings weights to bf16 once in its outermost context: that is this one, and not every token's pass.
    """
    engine = language_model.engine
    if engine is not None:
        yield engine.decoder()
    else:
        with language_model.autocast():
            yield PlainDecoder(language_model)

"""What gives the next token's logits: the engine's decoder where there is one, else the model's own forward pass."""

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
        self.cache.batch_select_indices(rows)  # type: ignore[union-attr]

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


def decoder_of(language_model: LanguageModel) -> Decoding:
    """For sampling with the weights as they are now."""
    engine = language_model.engine
    return PlainDecoder(language_model) if engine is None else engine.decoder()

"""A language model that also estimates how much reward is still to come: the policy and value function of PPO."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llmrl.config import ValueHead
from llmrl.engine import Engine, Lower, Objective, Weight, pack
from llmrl.errors import UserError
from llmrl.models.distribution import Distribution, entropy, token_logprobs
from llmrl.models.load import LanguageModel

TokenLoss = Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]
"""(places [m] of response tokens in [B * T], log-probabilities [m], entropies [m] if asked for, values [m]) -> scalar."""


@dataclass
class Outputs:
    """One forward pass over B sequences with responses of T tokens."""

    logits: Tensor  # [B, T, V], the distribution each response token was drawn from, before temperature
    values: Tensor  # [B, T], expected return just before that token


def position_ids(attention_mask: Tensor) -> Tensor:
    """[B, L] positions that count real tokens only, so that left padding changes nothing."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


@dataclass
class TokenStatistics:
    """What a model says of B responses of at most T tokens; 0 on padding."""

    logprobs: Tensor  # [B, T], nats, of each token under the distribution it was drawn from
    entropies: Tensor  # [B, T], nats, of that distribution
    values: Tensor | None  # [B, T], expected return just before each token


def response_logits(language_model: LanguageModel, tokens: Tensor, attention_mask: Tensor, response_length: int) -> Tensor:
    """[B, T, V] logits that predict the last T = `response_length` of the tokens [B, P+T], by the model's own forward pass."""
    with language_model.autocast():
        return language_model.model(
            input_ids=tokens[:, :-1],
            attention_mask=attention_mask[:, :-1],
            position_ids=position_ids(attention_mask[:, :-1]),
            logits_to_keep=response_length,
            use_cache=False,
        ).logits


@torch.no_grad()
def token_statistics(
    language_model: LanguageModel, tokens: Tensor, attention_mask: Tensor, response_mask: Tensor, distribution: Distribution,
    lower: Lower | None = None,
) -> TokenStatistics:  # fmt: skip
    """tokens, attention_mask [B, P+T], response_mask [B, T] -> what the model says of the responses; no values.

    `lower` is what `Policy.lower` gave for these tokens, if the model shares the layers it is of.
    """
    if (engine := language_model.engine) is not None:
        return _packed_statistics(engine, tokens, attention_mask, response_mask, distribution, lower)
    logits = response_logits(language_model, tokens, attention_mask, response_mask.shape[1])
    return _statistics(logits, None, tokens, response_mask, distribution)


def _packed_statistics(
    engine: Engine, tokens: Tensor, attention_mask: Tensor, response_mask: Tensor, distribution: Distribution,
    lower: Lower | None, value_head: nn.Module | None = None,
) -> TokenStatistics:  # fmt: skip
    packed = pack(tokens, attention_mask, response_mask)
    warp = None if distribution.is_plain else distribution.warp
    found = engine.score(packed, warp, value_head, lower)

    def laid_out(figures: Tensor) -> Tensor:
        grid = torch.zeros(response_mask.numel(), device=figures.device)
        return grid.index_copy_(0, packed.where, figures).view_as(response_mask)

    return TokenStatistics(*(None if figures is None else laid_out(figures) for figures in found))  # type: ignore[arg-type]


def _statistics(
    logits: Tensor, values: Tensor | None, tokens: Tensor, response_mask: Tensor, distribution: Distribution
) -> TokenStatistics:
    logits, mask = distribution.apply(logits), response_mask.float()
    logprobs = token_logprobs(logits, tokens[:, -response_mask.shape[1] :])
    return TokenStatistics(logprobs * mask, entropy(logits) * mask, None if values is None else values * mask)


class Head(nn.Module):
    """From the hidden state that the output layer reads to one number, zero at the start (Ziegler et al. 2019)."""

    def __init__(self, width: int, kind: ValueHead = ValueHead.linear) -> None:
        super().__init__()
        before: list[nn.Module] = []
        if kind is ValueHead.mlp:
            before, width = [nn.Linear(width, 2 * width), nn.ReLU()], 2 * width
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*before, last)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, width] -> [B, T], in fp32: values are regression targets, and bf16 has three digits."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.layers(hidden.float()).squeeze(-1)


class Policy(nn.Module):
    """Any causal language model of transformers, with a value head on the hidden state its output layer reads.

    A model whose architecture the engine knows is computed by it. Of any other, the hidden state is taken where it enters the
    output layer: exact for every architecture, without a second pass and without knowing how a model names its parts. Either
    way only the positions that predict response tokens reach the output layer.
    """

    def __init__(self, language_model: LanguageModel, value_head: ValueHead = ValueHead.linear) -> None:
        super().__init__()
        self.language_model = language_model
        self.model = language_model.model
        head = self.model.get_output_embeddings()
        if head is None or "logits_to_keep" not in inspect.signature(self.model.forward).parameters:
            raise UserError(
                f"model {language_model.name!r} ({type(self.model).__name__}) cannot be trained: its output layer is hidden"
            )
        self.value_head = Head(head.weight.shape[1], value_head).to(language_model.device)  # type: ignore[union-attr, index]

    def forward(self, tokens: Tensor, attention_mask: Tensor, response_length: int) -> Outputs:
        """tokens, attention_mask [B, P+T], the last `response_length` = T of them the response."""
        kept: list[Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))  # type: ignore[union-attr]
        try:
            logits = response_logits(self.language_model, tokens, attention_mask, response_length)
        finally:
            hook.remove()
        return Outputs(logits=logits, values=self.value_head(kept[0]))

    def lower(self, tokens: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Lower | None:
        """What leaves the layers that are never trained, to be given to later passes over these tokens.

        None where every layer is trained, and where the model's own forward pass is used, which can't begin in the middle.
        """
        engine = self.language_model.engine
        return None if engine is None else engine.lower(pack(tokens, attention_mask, response_mask))

    @torch.no_grad()
    def statistics(
        self, tokens: Tensor, attention_mask: Tensor, response_mask: Tensor, distribution: Distribution,
        lower: Lower | None = None,
    ) -> TokenStatistics:  # fmt: skip
        """tokens, attention_mask [B, P+T], response_mask [B, T] -> what policy and value head say of the responses."""
        if (engine := self.language_model.engine) is not None:
            return _packed_statistics(
                engine, tokens, attention_mask, response_mask, distribution, lower, self.value_head
            )  # fmt: skip
        outputs = self(tokens, attention_mask, response_mask.shape[1])
        return _statistics(outputs.logits, outputs.values, tokens, response_mask, distribution)

    def backward(
        self, tokens: Tensor, attention_mask: Tensor, response_mask: Tensor, distribution: Distribution, loss: TokenLoss,
        *, lower: Lower | None = None, with_entropy: bool = False, recompute: bool = False,
    ) -> None:  # fmt: skip
        """Add the gradient of `loss` over the response tokens to that of the weights (see `weights_of`).

        `loss` may be called several times, for some of the tokens each; what it returns must add up.
        """
        if (engine := self.language_model.engine) is None:
            with self.checkpointing(recompute):
                outputs = self(tokens, attention_mask, response_mask.shape[1])
                logits, where = distribution.apply(outputs.logits), response_mask.flatten().nonzero().squeeze(-1)
                logprobs = token_logprobs(logits, tokens[:, -response_mask.shape[1] :]).flatten()[where]
                entropies = entropy(logits).flatten()[where] if with_entropy else None
                loss(where, logprobs, entropies, outputs.values.flatten()[where]).backward()
            return
        packed = pack(tokens, attention_mask, response_mask)
        objective = Objective(
            lambda rows, *figures: loss(packed.where[rows], *figures),
            None if distribution.is_plain else distribution.warp, distribution.temperature, with_entropy,
        )  # fmt: skip
        engine.backward(packed, objective, self.value_head, lower, recompute)

    def weights_of(self, parameters: Sequence[nn.Parameter]) -> list[Weight]:
        """Where the gradients of parameters gather: in themselves, or in the copies that passes read in their place."""
        engine = self.language_model.engine
        found = [engine.weights.of(parameter) if engine is not None else None for parameter in parameters]
        return [weight or Weight(parameter, parameter) for weight, parameter in zip(found, parameters, strict=True)]

    def _layers(self) -> list[GradientCheckpointingLayer]:
        return [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]

    def refuse_if_layers_are_hidden(self) -> None:
        """Raises UserError for a model with no layers that can be computed again."""
        if not self._layers():
            raise UserError(f"ppo.gradient_checkpointing: model {self.language_model.name!r} has no layers that can do it")

    @contextmanager
    def checkpointing(self, enabled: bool) -> Iterator[None]:
        """Inside, passes with gradients keep only what enters each layer and compute the rest again going backwards.

        transformers would do so in training mode alone, and make the embeddings' output want a gradient. So the flags are set
        here, on each layer that can be computed again and not on the modules in it: dropout stays off, a frozen trunk frozen.
        """
        layers = self._layers()
        try:
            for layer in layers if enabled else []:
                layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
                layer.gradient_checkpointing = layer.training = True
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False

"""A language model that also estimates how much reward is still to come: the policy and value function of PPO."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llmrl.config import ValueHead
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel


@dataclass
class Outputs:
    """One forward pass over B sequences with responses of T tokens."""

    logits: Tensor  # [B, T, V], the distribution each response token was drawn from, before temperature
    values: Tensor  # [B, T], expected return just before that token


def position_ids(attention_mask: Tensor) -> Tensor:
    """[B, L] positions that count real tokens only, so that left padding changes nothing."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def response_logits(language_model: LanguageModel, tokens: Tensor, attention_mask: Tensor, response_length: int) -> Tensor:
    """[B, T, V] logits that predict the last T = `response_length` of the tokens [B, P+T]."""
    with language_model.autocast():
        return language_model.model(
            input_ids=tokens[:, :-1],
            attention_mask=attention_mask[:, :-1],
            position_ids=position_ids(attention_mask[:, :-1]),
            logits_to_keep=response_length,
            use_cache=False,
        ).logits


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

    The hidden state is taken where it enters the output layer. That is exact for every architecture, costs no second pass, and
    needs no knowledge of how a model names its parts. Only the positions that predict response tokens reach the output layer.
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

    @contextmanager
    def checkpointing(self, enabled: bool) -> Iterator[None]:
        """Inside, passes with gradients keep only what enters each layer and compute the rest again going backwards.

        transformers would do so in training mode alone, and make the embeddings' output want a gradient. So the flags are set
        here, on each layer that can be computed again and not on the modules in it: dropout stays off, a frozen trunk frozen.
        """
        layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if enabled and not layers:
            raise UserError(f"ppo.gradient_checkpointing: model {self.language_model.name!r} has no layers that can do it")
        try:
            for layer in layers if enabled else []:
                layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
                layer.gradient_checkpointing = layer.training = True
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False

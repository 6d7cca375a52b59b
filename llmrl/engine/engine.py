"""Passes over a model for learning: over real tokens only, with what the output layer makes kept small."""

import weakref
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmrl.engine import head
from llmrl.engine.decode import Decoder, LaidOut
from llmrl.engine.families import Attend, Family, recognise
from llmrl.engine.packing import Lower, Packed, attend_within
from llmrl.engine.weights import WorkingWeights

_engines: "weakref.WeakKeyDictionary[PreTrainedModel, _Known]" = weakref.WeakKeyDictionary()


@dataclass
class _Known:
    bf16: bool
    parts: tuple[int, ...]  # which modules and parameters the model had when it was looked at
    engine: "Engine | None"


def engine_of(model: nn.Module, bf16: bool) -> "Engine | None":
    """The engine of a model, made the first time it is asked for; None where its architecture is not known to one.

    None as well while hooks are on the model's modules, as they are there to change what it computes, unless they say that it
    does the same anyway (`engine_does_too`); and a model whose modules or parameters were replaced since is looked at anew.
    """
    modules = list(model.modules())
    hooks = (hook for each in modules for kind in (each._forward_hooks, each._forward_pre_hooks) for hook in kind.values())
    if not isinstance(model, PreTrainedModel) or not all(getattr(hook, "engine_does_too", False) for hook in hooks):
        return None
    known, identity = _engines.get(model), tuple(map(id, [*modules, *model.parameters()]))
    if known is None or (known.bf16, known.parts) != (bf16, identity):
        weights = WorkingWeights(torch.bfloat16 if bf16 else torch.float32)
        family = recognise(model, weights)
        known = _engines[model] = _Known(bf16, identity, Engine(family, weights) if family is not None else None)
    return known.engine


def lighten(model: PreTrainedModel, bf16: bool, besides: Collection[nn.Parameter] = ()) -> None:
    """Give up the fp32 weights of a model that is never trained where passes read a bf16 copy: the copy takes their place.

    `besides` are parameters that others need as they are.
    """
    engine, kept = engine_of(model, bf16), set(map(id, besides))
    if engine is None:
        return
    engine.weights.refresh()
    for weight in engine.weights:
        if weight.is_copy and id(weight.master) not in kept:
            weight.master.data = weight.working.detach()
    del _engines[model]


class Engine:
    """A recognised model and the working copy of its weights."""

    def __init__(self, family: Family, weights: WorkingWeights) -> None:
        self.family = family
        self.weights = weights
        self._laid_out: LaidOut | None = None  # for decoding; given up by the passes of learning, which need the memory

    def decoder(self) -> Decoder:
        """For sampling with the weights as they are now."""
        self.weights.refresh()
        versions = [weight.master._version for weight in self.weights]
        if self._laid_out is None or self._laid_out.versions != versions:
            self._laid_out = None  # before the next takes as much
            self._laid_out = LaidOut.of(self.family, versions)
        return Decoder(self._laid_out)

    @torch.no_grad()
    def lower(self, packed: Packed) -> Lower | None:
        """What leaves the layers that are never trained, the same in every pass; None where all are."""
        self.weights.refresh()
        frozen = self.family.frozen
        if not frozen:
            return None
        x = self.family.embed(packed.ids, packed.positions)
        x = self.family.through(x, packed.positions, self._attention(packed), range(frozen))
        return Lower.of(x, packed, frozen)

    @torch.no_grad()
    def score(
        self, packed: Packed, warp: head.Warp | None, value_head: nn.Module | None = None, lower: Lower | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(log-probabilities, entropies, values if there is a head for them), [M] each, fp32."""
        self.weights.refresh()
        hidden = self.hidden(packed, lower)
        found, entropies = head.logprobs(hidden, self.family.head.working, packed.targets, packed.steps, warp)
        return found, entropies, value_head(hidden) if value_head is not None else None

    def backward(
        self, packed: Packed, objective: head.Objective, value_head: nn.Module, lower: Lower | None = None,
        recompute: bool = False,
    ) -> None:  # fmt: skip
        """Add the gradient of the objective to that of the working weights and of the value head.

        With `recompute`, a layer keeps what enters it and is computed again going backwards.
        """
        self.weights.refresh()
        hidden = self.hidden(packed, lower, recompute)
        weight = self.family.head.working
        gradient = head.backward(hidden.detach(), weight, packed.targets, packed.steps, value_head, objective)
        if hidden.requires_grad:
            hidden.backward(gradient)

    def hidden(self, packed: Packed, lower: Lower | None = None, recompute: bool = False) -> Tensor:
        """[M, width]: what the output layer reads where response tokens are predicted; differentiable.

        The layers that `lower` is of are not computed again.
        """
        self._laid_out = None
        family, attend, last = self.family, self._attention(packed), len(self.family.layers) - 1
        first = 0 if lower is None else lower.layers
        x = family.embed(packed.ids, packed.positions) if lower is None else lower.packed(packed)
        x = family.through(x, packed.positions, attend, range(first, last), recompute)
        return family.finish(x, packed.positions, attend, packed.predicting)

    def _attention(self, packed: Packed) -> Attend:
        return lambda number, q, k, v: attend_within(packed, q, k, v, self.family.scales[number])

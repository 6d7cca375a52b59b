"""The weights a pass reads: the model's own, or one bf16 copy of them for all the passes between two optimiser steps.

Autocast would bring every weight to bf16 anew in each pass, and every gradient back to fp32; here the copy is made once, and
its gradient stays in bf16, as the matrix product made it, until the optimiser reads it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass
class _Copy:
    working: Tensor
    version: int = -1  # of the parameter when it was copied; torch counts what changes a tensor in place


_copies = WeakTensorKeyDictionary()
"""By parameter: models that share weights, as policy and reference do below a frozen trunk, share their copies."""


@dataclass(frozen=True)
class Weight:
    """A parameter of the model and what passes read in its place: itself, or a copy in another precision."""

    master: nn.Parameter
    working: Tensor

    @property
    def is_copy(self) -> bool:
        return self.working is not self.master

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the parameter if anything has changed it since: an optimiser, a checkpoint, another trainer."""
        if self.is_copy:
            if self.master._version != _copies[self.master].version:
                self.working.requires_grad_(False).copy_(self.master)
                self.is_fresh()
            self.working.requires_grad_(self.master.requires_grad)

    def is_fresh(self) -> None:
        """Whoever changed the parameter has brought the copy up to date."""
        if self.is_copy:
            _copies[self.master].version = self.master._version


class WorkingWeights:
    """The weights of a model, those of products in the precision of products."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._weights: dict[int, Weight] = {}

    def product(self, master: nn.Parameter) -> Weight:
        """The weight or bias of a product. A parameter in the right precision is read as it is."""
        if id(master) not in self._weights:
            working: Tensor = master
            if master.dtype != self.dtype:
                if master not in _copies:
                    _copies[master] = _Copy(torch.empty_like(master, dtype=self.dtype))
                working = _copies[master].working
            self._weights[id(master)] = Weight(master, working)
        return self._weights[id(master)]

    def norm(self, master: nn.Parameter) -> Weight:
        """A weight that is read in its own precision."""
        return self._weights.setdefault(id(master), Weight(master, master))

    def of(self, master: nn.Parameter) -> Weight | None:
        """What is read in place of a parameter; None of one that no pass reads."""
        return self._weights.get(id(master))

    def read(self, master: nn.Parameter) -> Weight:
        """What is read in place of a parameter that was entered before. Raises KeyError."""
        return self._weights[id(master)]

    def __iter__(self) -> Iterator[Weight]:
        return iter(self._weights.values())

    def refresh(self) -> None:
        """Bring every copy up to date."""
        for weight in self:
            weight.refresh()


def has_changed(parameters: Iterable[nn.Parameter]) -> None:
    """Say that parameters were changed in a way that torch does not count: by a fused optimiser, or through `.data`."""
    for parameter in parameters:
        torch.autograd.graph.increment_version(parameter)

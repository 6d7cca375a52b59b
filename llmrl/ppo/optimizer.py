"""AdamW over fp32 weights whose gradients may gather in bf16 copies of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from llmrl.engine import Weight, has_changed

PIECE = 1 << 20
"""Numbers of a weight at a time: weight, gradient and both moments of so many are read and written within the cache."""


class AdamW(torch.optim.AdamW):
    """torch's AdamW (Loshchilov and Hutter, 2019), its state and its arithmetic in fp32, taken through memory once.

    `weights_of` says where the gradients of parameters gather. Where that is a copy in bf16, the gradient is brought to fp32
    piece by piece, and the copy brought up to date while the new weights are at hand.
    """

    def __init__(
        self, groups: list[dict[str, Any]], weights_of: Callable[[Sequence[nn.Parameter]], list[Weight]], **settings: Any
    ) -> None:
        super().__init__(groups, fused=True, **settings)
        self._weights_of = weights_of
        self._weights = self._find()
        self._factor = 1.0

    def _find(self) -> dict[nn.Parameter, Weight]:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        return dict(zip(parameters, self._weights_of(parameters), strict=True))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Before gradients gather: where they will, as a hook on the model, for one, changes that."""
        for weight in self._weights.values():
            weight.master.grad = weight.working.grad = None
        self._weights = self._find()
        self._factor = 1.0

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> float:
        """Have the next step scale all gradients so that their Euclidean norm is at most `max_norm`.

        Returns the norm they have, finite or not. Gradients stay as they are: the step scales them in fp32 as it reads them.
        """
        gradients = [each.working.grad for each in self._weights.values() if each.working.grad is not None]
        pieces = [piece for each in gradients for piece in each.reshape(-1).split(PIECE)]
        room = _room(pieces)
        norm = float(torch.stack([torch.dot(each, each) for each in (_in_fp32(piece, room) for piece in pieces)]).sum().sqrt())
        self._factor = max_norm / (norm + 1e-6) if norm > max_norm else 1.0
        return norm

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step by the gradients that have gathered."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if self._weights[parameter].working.grad is not None:
                    self._step(parameter, self._weights[parameter], group)

    def _step(self, parameter: nn.Parameter, weight: Weight, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], weight.working.grad.reshape(-1)  # type: ignore[union-attr]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        flat = [each.detach().view(-1) for each in (parameter, state["exp_avg"], state["exp_avg_sq"], weight.working)]
        size = PIECE if parameter.device.type == "cpu" else gradient.numel()
        room = _room([gradient[:size]])
        for start in range(0, gradient.numel(), size):
            weights, mean, square, working, slope = (each[start : start + size] for each in (*flat, gradient))
            slope = _in_fp32(slope, room)
            if self._factor != 1:
                slope = torch.mul(slope, self._factor, out=room[: len(slope)])
            adamw(
                [weights], [slope], [mean], [square], [], [state["step"].clone()], fused=True, amsgrad=False,
                beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
                eps=group["eps"], maximize=False,
            )  # fmt: skip
            if weight.is_copy:
                working.copy_(weights)
        state["step"] += 1
        has_changed([parameter])  # it was changed through views, which torch does not count
        weight.is_fresh()


def _room(pieces: Sequence[Tensor]) -> Tensor:
    """For the largest of some pieces in fp32: the same place for each in turn stays in the cache."""
    longest = max(pieces, key=len)
    return torch.empty(len(longest), dtype=torch.float32, device=longest.device)


def _in_fp32(piece: Tensor, room: Tensor) -> Tensor:
    return piece if piece.dtype == torch.float32 else room[: len(piece)].copy_(piece)

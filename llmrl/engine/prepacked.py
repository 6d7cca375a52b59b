"""Linear layers whose weights are laid out once for oneDNN, and not in each product: for few rows that is most of its time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def can_prepack(like: Tensor) -> bool:
    """Whether oneDNN can lay out weights of this device and precision."""
    return (
        like.device.type == "cpu"
        and like.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


ACTIVATIONS = {
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "gelu": ("gelu", "none"),
    "relu": ("relu", ""),
}
"""Those that oneDNN computes with the product before them."""


@dataclass
class Prepacked:
    """x [..., in] -> [..., out], for decoding and other passes that need no gradient."""

    weight: Tensor
    bias: Tensor | None
    then: tuple[str, str] = ("none", "")  # an activation, and which way to compute it

    @classmethod
    def of(cls, matrices: Sequence[Tensor], biases: Sequence[Tensor]) -> "Prepacked":
        """One product of several matrices [out, in] that read the same, with as many biases or none; their outs are joined."""
        matrix = torch.cat(list(matrices)) if len(matrices) > 1 else matrices[0]
        weight = torch.ops.mkldnn._reorder_linear_weight(matrix.detach())
        return cls(weight, torch.cat(list(biases)).detach() if biases else None)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, self.then[0], [], self.then[1])


class PrepackedLinear(nn.Module):
    """Takes the place of a linear layer that is not trained any more."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.product = Prepacked.of([linear.weight], [linear.bias] if linear.bias is not None else [])
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


def prepack_linears(module: nn.Module) -> None:
    """Replace every linear layer below a module."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PrepackedLinear(child))
        else:
            prepack_linears(child)

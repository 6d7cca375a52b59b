"""The architectures the engine computes itself, read from a model of transformers.

A model is recognised when every module and setting is one that is known here; any other goes the plain path through its own
forward pass. What a layer computes is written once, for learning and for decoding: the two differ in how they attend.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM
from transformers.pytorch_utils import Conv1D

from llmrl.engine.layers import embedding, layer_norm, rms_norm, rotary
from llmrl.engine.weights import Weight, WorkingWeights

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [N, heads, width], k and v [N, key heads, width]) -> [N, heads * width]."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


Angles = tuple[Tensor, Tensor]
"""cos and sin [N, 1, head width] of positions; see `rotary`."""


@dataclass
class Linear:
    """A linear layer of the model, and the working copy of its weights."""

    weight: Weight
    bias: Weight | None = None
    transposed: bool = False  # GPT-2 stores [in, out]

    @property
    def matrix(self) -> Tensor:
        """[out, in]"""
        return self.weight.working.t() if self.transposed else self.weight.working

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix, self.bias.working if self.bias else None)


@dataclass
class Several:
    """Linear layers that read the same, one product each; or one, whose result is cut into parts of these widths."""

    linears: list[Linear]
    widths: list[int]

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        if len(self.linears) == 1:
            return self.linears[0](x).split(self.widths, -1)
        return [linear(x) for linear in self.linears]


@dataclass
class Inner:
    """What the second half of a layer has between its two products: an activation, or one that lets the rest through."""

    up: Several
    activation: str

    def __call__(self, x: Tensor) -> Tensor:
        return self.activated(self.up(x))

    def activated(self, parts: Sequence[Tensor]) -> Tensor:
        gate, *through = parts
        inner = ACTIVATIONS[self.activation](gate)
        return inner * through[0] if through else inner


@dataclass
class Heads:
    """What attention reads: queries, keys and values, cut into heads and turned by their positions where these have angles."""

    products: Several
    head_width: int

    def __call__(self, x: Tensor, angles: Angles | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [N, width] -> q [N, heads, head width], k and v [N, key heads, head width]."""
        q, k, v = (part.unflatten(-1, (-1, self.head_width)) for part in self.products(x))
        return (q, k, v) if angles is None else (rotary(q, *angles), rotary(k, *angles), v)


@dataclass
class Norm:
    weight: Weight
    bias: Weight | None  # of layer norm; root-mean-square norm has none
    eps: float

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if self.bias is None:
            return rms_norm(x, self.weight.working, self.eps, dtype)
        return layer_norm(x, self.weight.working, self.bias.working, self.eps, dtype)


@dataclass
class Layer:
    before_attention: Norm
    heads: Callable[[Tensor, Angles | None], tuple[Tensor, Tensor, Tensor]]
    out: Callable[[Tensor], Tensor]
    before_mlp: Norm
    inner: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]
    weights: list[Weight]  # all of them


@dataclass
class Family:
    """A model as the engine computes it."""

    layers: list[Layer]
    last_norm: Norm
    tokens: Weight  # [V, width]
    positions: Weight | None  # [longest, width], where positions are learned
    head: Weight  # [V, width]; the same as `tokens` where they are tied
    key_heads: int
    head_width: int
    scales: list[float]  # of each layer's attention
    angles: Callable[[Tensor], Angles] | None  # of positions [N], where they are not learned

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """[N] -> [N, width] in fp32: what is added up along the layers stays in fp32."""
        x = embedding(ids, self.tokens.working).float()
        return x if self.positions is None else x + embedding(positions, self.positions.working)

    def layer(self, number: int, x: Tensor, angles: Angles | None, attend: Attend, wanted: Tensor | None = None) -> Tensor:
        """x [N, width] -> [N, width]; with `wanted` [M], indices into N, of these rows alone."""
        layer, dtype = self.layers[number], self.head.working.dtype
        attended = attend(number, *layer.heads(layer.before_attention(x, dtype), angles))
        if wanted is not None:
            x, attended = x.index_select(0, wanted), attended.index_select(0, wanted)
        x = x + layer.out(attended)
        return x + layer.down(layer.inner(layer.before_mlp(x, dtype)))

    def through(self, x: Tensor, positions: Tensor, attend: Attend, layers: range, recompute: bool = False) -> Tensor:
        """x [N, width] through some of the layers; with `recompute`, each keeps what enters it alone for going backwards."""
        angles = self.angles(positions) if self.angles is not None else None
        for number in layers:
            if recompute and torch.is_grad_enabled():
                x = checkpoint(self.layer, number, x, angles, attend, use_reentrant=False)  # type: ignore[assignment]
            else:
                x = self.layer(number, x, angles, attend)
        return x

    def finish(self, x: Tensor, positions: Tensor, attend: Attend, wanted: Tensor | None) -> Tensor:
        """x [N, width] through the last layer -> what the output layer reads, of the rows `wanted` [M] alone, or of all."""
        angles = self.angles(positions) if self.angles is not None else None
        x = self.layer(len(self.layers) - 1, x, angles, attend, wanted)
        return self.last_norm(x, self.head.working.dtype)

    @property
    def frozen(self) -> int:
        """How many of the lowest layers are never trained, nor what enters them."""
        below = [self.tokens, self.positions]
        if any(weight is not None and weight.master.requires_grad for weight in below):
            return 0
        trained = (any(weight.master.requires_grad for weight in layer.weights) for layer in self.layers)
        return next((number for number, yes in enumerate(trained) if yes), len(self.layers) - 1)


def recognise(model: PreTrainedModel, weights: WorkingWeights) -> Family | None:
    """The model as a family, its weights entered in `weights`; None where anything about it is not known here."""
    config: Any = model.config
    if type(model) is GPT2LMHeadModel:
        known = (
            config.activation_function in ACTIVATIONS and not config.add_cross_attention and not config.reorder_and_upcast_attn
        )
        family = _gpt2 if known else None
    elif type(model) in (LlamaForCausalLM, Qwen2ForCausalLM):
        known = (
            config.hidden_act in ACTIVATIONS
            and config.rope_parameters.get("rope_type") in ("default", "linear", "llama3", "yarn")
            and not getattr(config, "use_sliding_window", False)
        )
        family = _llama if known else None
    else:
        family = None
    if family is None or not _are_plain(model):
        return None
    return family(model, weights)


_PLAIN = ("torch.nn.modules.", "transformers.models.", "transformers.activations", "transformers.pytorch_utils")


def _are_plain(model: nn.Module) -> bool:
    """Whether all modules are the usual ones of torch and of the architecture: no adapters, nothing quantised."""
    return all(type(module).__module__.startswith(_PLAIN) for module in model.modules())


def _gpt2(model: Any, weights: WorkingWeights) -> Family:
    config, body = model.config, model.transformer

    def linear(module: Conv1D) -> Linear:
        return Linear(weights.product(module.weight), weights.product(module.bias), transposed=True)

    def norm(module: nn.LayerNorm) -> Norm:
        return Norm(weights.norm(module.weight), weights.norm(module.bias), module.eps)

    layers = [
        Layer(
            norm(block.ln_1), Heads(Several([linear(block.attn.c_attn)], 3 * [config.n_embd]), config.n_embd // config.n_head),
            linear(block.attn.c_proj),
            norm(block.ln_2), Inner(Several([linear(block.mlp.c_fc)], [block.mlp.c_fc.nf]), config.activation_function),
            linear(block.mlp.c_proj),
            [weights.read(each) for each in block.parameters()],
        )
        for block in body.h
    ]  # fmt: skip
    return Family(
        layers=layers, last_norm=norm(body.ln_f), tokens=weights.product(body.wte.weight),
        positions=weights.product(body.wpe.weight), head=weights.product(model.lm_head.weight),
        key_heads=config.n_head, head_width=config.n_embd // config.n_head, scales=[block.attn.scaling for block in body.h],
        angles=None,
    )  # fmt: skip


def _llama(model: Any, weights: WorkingWeights) -> Family:
    config, body = model.config, model.model

    def linear(module: Any) -> Linear:
        return Linear(weights.product(module.weight), weights.product(module.bias) if module.bias is not None else None)

    def several(*modules: nn.Linear) -> Several:
        return Several([linear(module) for module in modules], [module.out_features for module in modules])

    def norm(module: Any) -> Norm:
        return Norm(weights.norm(module.weight), None, module.variance_epsilon)

    def angles(positions: Tensor) -> Angles:
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        cos, sin = body.rotary_emb(like, positions.unsqueeze(0))
        half = sin.shape[-1] // 2
        sin[..., :half].neg_()
        return cos[0].unsqueeze(1), sin[0].unsqueeze(1)

    layers = [
        Layer(
            norm(block.input_layernorm),
            Heads(several(block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj), block.self_attn.head_dim),
            linear(block.self_attn.o_proj), norm(block.post_attention_layernorm),
            Inner(several(block.mlp.gate_proj, block.mlp.up_proj), config.hidden_act), linear(block.mlp.down_proj),
            [weights.read(each) for each in block.parameters()],
        )
        for block in body.layers
    ]  # fmt: skip
    return Family(
        layers=layers, last_norm=norm(body.norm), tokens=weights.product(body.embed_tokens.weight), positions=None,
        head=weights.product(model.lm_head.weight), key_heads=config.num_key_value_heads,
        head_width=body.layers[0].self_attn.head_dim, scales=[block.self_attn.scaling for block in body.layers],
        angles=angles,
    )  # fmt: skip

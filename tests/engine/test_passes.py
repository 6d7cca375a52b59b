"""Everything the engine computes against the model's own forward pass and autograd."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)  # fmt: skip

from llmrl.config import PPOConfig, RolloutConfig
from llmrl.engine import Lower, engine_of, head, packing
from llmrl.models.distribution import Distribution
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy, token_statistics
from llmrl.models.trainable import add_adapters, freeze_trunk, lightened, train_all
from llmrl.ppo.update import make_optimizer
from llmrl.prompts import Prompt
from llmrl.rollout import Rollout, sample
from llmrl.trainers.lent import count_positions

PROMPTS = [Prompt(text, id=text) for text in ("Once", "The old clockmaker opened the door and", "Rain falls when", "I like")]
DISTRIBUTIONS = [Distribution(), Distribution(0.7, 3, (5, 11))]


def made(language_model: LanguageModel, tokens: int = 12) -> Rollout:
    """Responses of unequal lengths to prompts of unequal lengths."""
    rollout = sample(language_model, PROMPTS, RolloutConfig(max_new_tokens=tokens), torch.Generator().manual_seed(0))
    for row, length in enumerate((tokens, 1, 5, tokens - 1)):
        rollout.response_mask[row, length:] = 0
        rollout.attention_mask[row, rollout.tokens.shape[1] - tokens + length :] = 0
    return rollout


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to have every pass after it go through the model's own forward pass."""
    return lambda: monkeypatch.setattr(LanguageModel, "engine", property(lambda _: None))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_statistics_are_those_of_the_plain_path(
    family: LanguageModel, distribution: Distribution, plainly: Callable[[], None]
) -> None:
    rollout, policy = made(family), Policy(family)
    torch.nn.init.normal_(policy.value_head.layers[-1].weight)
    columns = (rollout.tokens, rollout.attention_mask, rollout.response_mask)
    assert family.engine is not None
    fast, base = policy.statistics(*columns, distribution), token_statistics(family, *columns, distribution)
    plainly()
    plain = policy.statistics(*columns, distribution)
    for name in ("logprobs", "entropies", "values"):
        assert torch.allclose(getattr(fast, name), getattr(plain, name), atol=1e-4), name
        assert (getattr(fast, name)[rollout.response_mask == 0] == 0).all()
    assert torch.equal(base.logprobs, fast.logprobs)


def gradients(
    policy: Policy,
    rollout: Rollout,
    distribution: Distribution,
    with_entropy: bool,
    recompute: bool,
    lower: Lower | None = None,
) -> dict[str, Tensor]:
    """Of a loss in which log-probabilities, entropies and values all count, and each token differently."""
    weights = torch.randn(3, rollout.response_mask.numel(), generator=torch.Generator().manual_seed(3))

    def loss(where: Tensor, logprobs: Tensor, entropies: Tensor | None, values: Tensor) -> Tensor:
        first, second, third = weights[:, where]
        entropy = 0 if entropies is None else (third * entropies).sum()
        return (first * logprobs.exp()).sum() + (second * values).square().sum() + entropy

    policy.backward(
        rollout.tokens, rollout.attention_mask, rollout.response_mask, distribution, loss, with_entropy=with_entropy,
        recompute=recompute, lower=lower,
    )  # fmt: skip
    named = dict(policy.named_parameters())
    weights = policy.weights_of(list(named.values()))
    gathered = zip(named, (weight.working.grad for weight in weights), strict=True)
    found = {name: gradient.clone() for name, gradient in gathered if gradient is not None}
    for weight in weights:
        weight.working.grad = None
    return found


def same(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> bool:
    scale = max(float(each.abs().max()) for each in second.values())
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], atol=tolerance * scale) for name in first
    )


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_gradients_are_those_of_autograd(
    family: LanguageModel, distribution: Distribution, with_entropy: bool, plainly: Callable[[], None]
) -> None:
    rollout, policy = made(family), Policy(family)
    torch.nn.init.normal_(policy.value_head.layers[-1].weight)
    fast = gradients(policy, rollout, distribution, with_entropy, recompute=False)
    again = gradients(policy, rollout, distribution, with_entropy, recompute=True)
    plainly()
    plain = gradients(policy, rollout, distribution, with_entropy, recompute=False)
    assert same(fast, plain, 2e-5)
    assert same(again, fast, 1e-6)


def test_long_rows_attend_in_another_way_to_the_same_end(
    family: LanguageModel, monkeypatch: pytest.MonkeyPatch, plainly: Callable[[], None]
) -> None:
    """As if four tokens were long: fused attention, with shared key heads, and back through it."""
    monkeypatch.setattr(packing, "SHORT", 4)
    rollout, policy = made(family), Policy(family)
    columns = (rollout.tokens, rollout.attention_mask, rollout.response_mask)
    fast = policy.statistics(*columns, Distribution()).logprobs
    found = gradients(policy, rollout, Distribution(), False, False)
    plainly()
    assert torch.allclose(fast, policy.statistics(*columns, Distribution()).logprobs, atol=1e-4)
    assert same(found, gradients(policy, rollout, Distribution(), False, False), 2e-5)


def test_gradients_in_bf16_point_where_those_in_fp32_do(family: LanguageModel) -> None:
    """The copies, the logits turned into their gradient, embeddings tied or not: direction and length of each gradient."""
    half = dataclasses.replace(family, bf16=True)
    rollout = made(family)
    exact = gradients(Policy(family), rollout, Distribution(), True, False)
    rounded = {name: each.float() for name, each in gradients(Policy(half), rollout, Distribution(), True, False).items()}
    assert exact.keys() == rounded.keys()
    for name, gradient in exact.items():
        if gradient.norm() < 1e-3 * max(each.norm() for each in exact.values()):
            continue  # lost in the rounding of what it is made of: the key biases, whose gradient is 0
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), rounded[name].flatten(), dim=0)
        assert cosine > 0.99, name
        assert rounded[name].norm() / gradient.norm() == pytest.approx(1, abs=0.05), name


def test_rows_at_a_time_change_nothing(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sizes of chunk that divide nothing evenly, against all at once."""
    rollout, policy = made(tiny), Policy(tiny)
    columns = (rollout.tokens, rollout.attention_mask, rollout.response_mask)
    whole = policy.statistics(*columns, Distribution()), gradients(policy, rollout, Distribution(), True, False)
    monkeypatch.setattr(head, "PRODUCT_BYTES", 4 * 4096 * 16)
    monkeypatch.setattr(head, "CACHE_BYTES", 4 * 4096 * 8)
    monkeypatch.setattr(head, "TOKENS", 1000)
    parts = policy.statistics(*columns, Distribution()), gradients(policy, rollout, Distribution(), True, False)
    assert torch.allclose(whole[0].logprobs, parts[0].logprobs, atol=1e-5)
    assert torch.allclose(whole[0].entropies, parts[0].entropies, atol=1e-5)
    assert same(whole[1], parts[1], 1e-5)


class _Largest(TorchDispatchMode):
    """The largest fp32 tensor that any operation gave back."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        out = operation(*arguments, **(options or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor) and each.dtype == torch.float32:
                self.numbers = max(self.numbers, each.numel())
        return out


def test_the_logits_of_a_batch_are_never_there_in_fp32(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CACHE_BYTES", 4 * 4096 * 8)
    language_model = dataclasses.replace(tiny, bf16=True)
    rollout, policy = made(language_model), Policy(language_model)
    with _Largest() as seen:
        policy.statistics(rollout.tokens, rollout.attention_mask, rollout.response_mask, Distribution())
        gradients(policy, rollout, Distribution(), True, False)
    assert seen.numbers == 8 * 4096  # rows at a time, of 4 x 12
    monkeypatch.setattr(LanguageModel, "engine", property(lambda _: None))
    with _Largest() as seen:
        policy.statistics(rollout.tokens, rollout.attention_mask, rollout.response_mask, Distribution())
    assert seen.numbers == 4 * 12 * 4096  # the plain path has them all: the test would see them


def test_bf16_is_unbiased(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of log-probabilities against fp32: their mean is within chance of 0, their size that of autocast's."""
    prompts = [Prompt(f"{text} {n}", id=str(n)) for n in range(24) for text in ("One morning", "The river", "My aunt said")]
    rollout = sample(tiny, prompts, RolloutConfig(max_new_tokens=24), torch.Generator().manual_seed(0))
    columns, real = (rollout.tokens, rollout.attention_mask, rollout.response_mask), rollout.response_mask.bool()
    exact = token_statistics(tiny, *columns, Distribution()).logprobs
    half = dataclasses.replace(tiny, bf16=True)
    errors = (token_statistics(half, *columns, Distribution()).logprobs - exact)[real]
    monkeypatch.setattr(LanguageModel, "engine", property(lambda _: None))
    plain = (token_statistics(half, *columns, Distribution()).logprobs - exact)[real]
    assert len(errors) > 1000
    assert errors.std() > 0
    assert errors.mean().abs() < 4 * errors.std() / len(errors) ** 0.5
    assert errors.std() < 1.5 * plain.std()


@pytest.mark.parametrize("way", ["in place", "fused optimiser", "data", "another parameter"])
def test_a_change_from_outside_is_seen(tiny: LanguageModel, way: str) -> None:
    """A checkpoint, another trainer's optimiser, a parameter put in the place of another: the bf16 copies follow."""
    half = dataclasses.replace(tiny, bf16=True)
    rollout, module = made(half), half.model.transformer.h[0].mlp.c_fc
    columns = (rollout.tokens, rollout.attention_mask, rollout.response_mask)
    before = token_statistics(half, *columns, Distribution()).logprobs
    change = 0.1 * torch.randn_like(module.weight)
    with torch.no_grad():
        if way == "in place":
            module.weight.add_(change)
        elif way == "data":
            module.weight.data = module.weight.data + change
        elif way == "another parameter":
            module.weight = torch.nn.Parameter(module.weight + change)
        else:
            module.weight.grad = torch.randn_like(module.weight)
            torch.optim.AdamW([module.weight], lr=0.1, fused=True).step()
    if way in ("fused optimiser", "data"):  # torch does not count these
        half.has_changed()
    after = token_statistics(half, *columns, Distribution()).logprobs
    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.equal(after, token_statistics(half.frozen_copy(), *columns, Distribution()).logprobs)


def test_what_the_engine_does_not_know_goes_the_plain_path(tiny: LanguageModel) -> None:
    model = tiny.model
    assert engine_of(model, False) is not None
    for hook, does in ((lambda *_: None, False), (count_positions, True)):
        handle = model.transformer.h[1].register_forward_pre_hook(hook)
        assert (engine_of(model, False) is not None) == does
        handle.remove()
    assert engine_of(model, False) is not None
    add_adapters(tiny, 2, 4, [])
    assert engine_of(tiny.model, False) is None
    assert engine_of(torch.nn.Linear(2, 2), False) is None


SMALL = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
SMALL_GPT2 = {"vocab_size": 32, "n_embd": 8, "n_layer": 1, "n_head": 2}


@pytest.mark.parametrize(
    "model",
    [
        lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=4)),
        lambda: LlamaForCausalLM(LlamaConfig(**SMALL, hidden_act="tanh")),
        lambda: LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=DYNAMIC)),
        lambda: GPT2LMHeadModel(GPT2Config(**SMALL_GPT2, reorder_and_upcast_attn=True)),
        lambda: GPT2LMHeadModel(GPT2Config(**SMALL_GPT2, add_cross_attention=True)),
        lambda: GPT2LMHeadModel(GPT2Config(**SMALL_GPT2, activation_function="tanh")),
        lambda: MistralForCausalLM(MistralConfig(**SMALL)),
    ],
)
def test_a_setting_the_engine_does_not_know_is_not_ignored(model: Callable[[], PreTrainedModel]) -> None:
    assert engine_of(model(), False) is None


def test_the_reference_gives_up_what_nobody_reads(tiny: LanguageModel) -> None:
    """A lightened reference says what it said before, in half the memory; the policy's weights stay fp32."""
    half = dataclasses.replace(tiny, bf16=True)
    rollout = made(half)
    columns = (rollout.tokens, rollout.attention_mask, rollout.response_mask)
    reference = train_all(half)
    before = token_statistics(reference, *columns, Distribution()).logprobs
    light = lightened(reference, half)
    assert torch.equal(token_statistics(light, *columns, Distribution()).logprobs, before)
    assert all(parameter.dtype == torch.bfloat16 for parameter in light.model.parameters() if parameter.dim() == 2)
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())


def test_frozen_layers_are_computed_once(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = freeze_trunk(tiny, 3)
    rollout, policy = made(tiny), Policy(tiny)
    columns = (rollout.tokens, rollout.attention_mask, rollout.response_mask)
    lower = policy.lower(*columns)
    assert lower is not None
    assert lower.layers == 3
    whole = policy.statistics(*columns, Distribution()).logprobs
    computed: list[int] = []
    layer = type(tiny.engine.family).layer  # type: ignore[union-attr]
    monkeypatch.setattr(
        type(tiny.engine.family), "layer", lambda self, number, *rest: computed.append(number) or layer(self, number, *rest)
    )  # type: ignore[union-attr]
    assert torch.allclose(policy.statistics(*columns, Distribution(), lower).logprobs, whole, atol=1e-5)
    assert torch.allclose(token_statistics(reference, *columns, Distribution(), lower).logprobs, whole, atol=1e-5)
    assert computed == [3, 4, 3, 4]
    from_above = gradients(policy, rollout, Distribution(), True, False, lower)
    assert same(from_above, gradients(policy, rollout, Distribution(), True, False), 1e-5)
    assert not any(".h.2." in name for name in from_above)


def test_adam_is_torchs_own(tiny: LanguageModel) -> None:
    """Three steps with pieces that do not divide the weights: the same bits as torch's fused AdamW on whole tensors."""
    config = PPOConfig(lr=1e-3, value_lr=1e-3, weight_decay=0.1)
    twin = tiny.frozen_copy()
    twin.model.requires_grad_(True)
    policy, optimizer = Policy(tiny), make_optimizer(Policy(tiny), config)
    theirs = torch.optim.AdamW(twin.model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=True)
    for step in range(3):
        for own, other in zip(policy.model.parameters(), twin.model.parameters(), strict=True):
            own.grad = torch.randn(own.shape, generator=torch.Generator().manual_seed(step))
            other.grad = own.grad.clone()
        optimizer.step()
        theirs.step()
    assert all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), twin.model.parameters(), strict=True))
    assert optimizer.state[next(iter(policy.model.parameters()))]["step"] == 3


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("max_norm", [1.0, 1e9])
def test_gradients_are_clipped_to_a_norm_and_copies_follow(tiny: LanguageModel, bf16: bool, max_norm: float) -> None:
    """A step after clipping is torch's own step with gradients scaled to that norm; gradients below it are left alone."""
    half = dataclasses.replace(tiny, bf16=bf16)
    policy = Policy(half)
    optimizer = make_optimizer(policy, PPOConfig(lr=1e-3, adam_eps=1.0))  # such an eps lets the size of gradients count
    gradients(policy, made(half), Distribution(), False, False)  # makes the copies and clears their gradients
    weights = policy.weights_of(list(policy.model.parameters()))
    twins = [torch.nn.Parameter(weight.master.detach().clone()) for weight in weights]
    for weight in weights:
        weight.working.grad = torch.randn_like(weight.working)
    norm = torch.stack([weight.working.grad.double().norm() for weight in weights]).norm().item()  # type: ignore[union-attr]
    for twin, weight in zip(twins, weights, strict=True):
        twin.grad = weight.working.grad.float() * min(max_norm / norm, 1.0)  # type: ignore[union-attr]
    given = [weight.working.grad.clone() for weight in weights]  # type: ignore[union-attr]
    assert optimizer.clip_gradients(max_norm) == pytest.approx(norm, rel=1e-5)
    optimizer.step()
    assert all(torch.equal(weight.working.grad, grad) for weight, grad in zip(weights, given, strict=True))  # type: ignore[arg-type]
    torch.optim.AdamW(twins, lr=1e-3, betas=(0.9, 0.95), eps=1.0, weight_decay=0.0).step()
    for twin, weight in zip(twins, weights, strict=True):
        assert torch.allclose(weight.master, twin, rtol=1e-6, atol=1e-8)
        assert torch.equal(weight.working, weight.master.to(weight.working.dtype))
    assert any(weight.is_copy for weight in weights) == bf16
    optimizer.zero_grad()
    assert all(weight.working.grad is None for weight in weights)
    last = weights[-1]  # what was clipped does not scale the gradients of the next step
    twin, last.working.grad = torch.nn.Parameter(last.master.detach().clone()), torch.randn_like(last.working)
    twin.grad, state = last.working.grad.float(), optimizer.state[last.master]
    other = torch.optim.AdamW([twin], lr=1e-3, betas=(0.9, 0.95), eps=1.0, weight_decay=0.0)
    other.state[twin] = {name: each.clone() for name, each in state.items()}
    optimizer.step()
    other.step()
    assert torch.allclose(last.master, twin, rtol=1e-6, atol=1e-8)

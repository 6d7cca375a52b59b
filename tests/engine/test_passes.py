"""Everything the engine computes against the model's own forward pass and autograd."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llmrl.config import PPOConfig, RolloutConfig
from llmrl.engine import engine_of, head
from llmrl.models.distribution import Distribution
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy, token_statistics
from llmrl.models.trainable import add_adapters, freeze_trunk, lightened, train_all
from llmrl.ppo.update import make_optimizer
from llmrl.prompts import Prompt
from llmrl.rollout import Rollout, sample

PROMPTS = [Prompt(text, id=text) for text in ("Once", "The old clockmaker opened the door and", "Rain falls when", "I like")]
DISTRIBUTIONS = [Distribution(), Distribution(0.7, 3, (5, 11))]


def made(language_model: LanguageModel, tokens: int = 12) -> Rollout:
    """Responses of unequal lengths to prompts of unequal lengths."""
    rollout = sample(language_model, PROMPTS, RolloutConfig(max_new_tokens=tokens), torch.Generator().manual_seed(0))
    for row, length in enumerate((tokens, 1, 5, tokens - 1)):
        rollout.response_mask[row, length:] = 0
        rollout.attention_mask[row, -tokens + length :] = 0 if length < tokens else 1
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
    policy: Policy, rollout: Rollout, distribution: Distribution, with_entropy: bool, recompute: bool
) -> dict[str, Tensor]:
    """Of a loss in which log-probabilities, entropies and values all count, and each token differently."""
    weights = torch.randn(3, rollout.response_mask.numel(), generator=torch.Generator().manual_seed(3))

    def loss(where: Tensor, logprobs: Tensor, entropies: Tensor | None, values: Tensor) -> Tensor:
        first, second, third = weights[:, where]
        entropy = 0 if entropies is None else (third * entropies).sum()
        return (first * logprobs.exp()).sum() + (second * values).square().sum() + entropy

    policy.backward(
        rollout.tokens, rollout.attention_mask, rollout.response_mask, distribution, loss, with_entropy=with_entropy,
        recompute=recompute,
    )  # fmt: skip
    found = {name: policy.weight_of(p).working.grad.clone() for name, p in policy.named_parameters()}  # type: ignore[union-attr]
    for parameter in policy.parameters():
        policy.weight_of(parameter).working.grad = None
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


def test_rows_at_a_time_change_nothing(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes of chunk that divide nothing evenly, against all at once."""
    rollout, policy = made(tiny), Policy(tiny)
    columns = (rollout.tokens, rollout.attention_mask, rollout.response_mask)
    whole = policy.statistics(*columns, Distribution()), gradients(policy, rollout, Distribution(), True, False)
    monkeypatch.setattr(head, "PRODUCT_BYTES", 4 * 4096 * 16)
    monkeypatch.setattr(head, "CACHE_BYTES", 4 * 4096 * 8)
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


def test_a_change_from_outside_is_seen(tiny: LanguageModel) -> None:
    """Another trainer's optimiser, or a checkpoint: the bf16 copies follow."""
    half = dataclasses.replace(tiny, bf16=True)
    rollout = made(half)
    columns = (rollout.tokens, rollout.attention_mask, rollout.response_mask)
    before = token_statistics(half, *columns, Distribution()).logprobs
    with torch.no_grad():
        half.model.transformer.h[0].mlp.c_fc.weight.add_(0.1 * torch.randn_like(half.model.transformer.h[0].mlp.c_fc.weight))
    after = token_statistics(half, *columns, Distribution()).logprobs
    fresh = dataclasses.replace(half.frozen_copy())
    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.equal(after, token_statistics(fresh, *columns, Distribution()).logprobs)


def test_what_the_engine_does_not_know_goes_the_plain_path(tiny: LanguageModel) -> None:
    model = tiny.model
    assert engine_of(model, False) is not None
    hook = model.transformer.h[1].register_forward_hook(lambda *_: None)
    assert engine_of(model, False) is None
    hook.remove()
    assert engine_of(model, False) is not None
    add_adapters(tiny, 2, 4, [])
    assert engine_of(tiny.model, False) is None
    assert engine_of(torch.nn.Linear(2, 2), False) is None


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


def test_gradients_are_clipped_to_a_norm_and_copies_follow_the_weights(tiny: LanguageModel) -> None:
    half = dataclasses.replace(tiny, bf16=True)
    policy = Policy(half)
    optimizer = make_optimizer(policy, PPOConfig(lr=1e-3))
    gradients(policy, made(half), Distribution(), False, False)  # makes the copies and clears their gradients
    weights = [policy.weight_of(parameter) for parameter in policy.model.parameters()]
    for weight in weights:
        weight.working.grad = torch.randn_like(weight.working)
    norm = torch.stack([weight.working.grad.double().norm() for weight in weights]).norm().item()  # type: ignore[union-attr]
    assert optimizer.clip_gradients(1.0) == pytest.approx(norm, rel=2e-3)
    clipped = torch.stack([weight.working.grad.double().norm() for weight in weights]).norm().item()  # type: ignore[union-attr]
    assert clipped == pytest.approx(1.0, rel=5e-3)
    before = [weight.master.clone() for weight in weights]
    optimizer.step()
    assert all(not torch.equal(old, weight.master) for old, weight in zip(before, weights, strict=True))
    assert all(torch.equal(weight.working, weight.master.to(weight.working.dtype)) for weight in weights)
    assert any(weight.is_copy for weight in weights)

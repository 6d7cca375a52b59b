"""Every formula against NumPy in float64 written from its definition, one token at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrl.ppo.advantages import gae, token_rewards
from llmrl.ppo.losses import entropy, explained_variance, policy_loss, value_loss
from llmrl.ppo.masked import masked_mean, masked_var, whiten

shapes = st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(0, 2**31))


def batch(shape: tuple[int, int, int], columns: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A mask of responses of random lengths, at least one token each, and random numbers, junk on padding included."""
    b, t, seed = shape
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, t + 1, b)
    mask = (np.arange(t)[None] < lengths[:, None]).astype(np.float64)
    return mask, [rng.normal(size=(b, t)) * 3 for _ in range(columns)]


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]


def real(mask: np.ndarray) -> list[tuple[int, int]]:
    return [(i, j) for i, j in np.ndindex(*mask.shape) if mask[i, j]]


@given(shapes)
def test_masked_statistics_and_whitening(shape) -> None:
    mask, (x,) = batch(shape, 1)
    values = np.array([x[at] for at in real(mask)])
    tx, tm = tensors(x, mask)
    assert masked_mean(tx, tm).item() == pytest.approx(values.mean(), abs=1e-4)
    assert masked_var(tx, tm).item() == pytest.approx(values.var(), abs=1e-3)
    if len(values) > 1 and values.std() > 0.1:
        scaled = values / np.sqrt(values.var() + 1e-8)
        kept, shifted = whiten(tx, tm, shift_mean=False), whiten(tx, tm)
        at = tuple(np.array(real(mask)).T)
        assert np.allclose(shifted.numpy()[at], scaled - scaled.mean(), atol=1e-3)
        assert np.allclose(kept.numpy()[at], scaled - scaled.mean() + values.mean(), atol=1e-3)
        assert (shifted.numpy()[mask == 0] == 0).all()


@given(shapes, st.floats(0, 2))
def test_token_rewards(shape, kl_coef: float) -> None:
    mask, (kl, scores) = batch(shape, 2)
    scores = scores[:, 0]
    expected = np.zeros_like(kl)
    for i, j in real(mask):
        last = j == int(mask[i].sum()) - 1
        expected[i, j] = -kl_coef * kl[i, j] + (scores[i] if last else 0.0)
    found = token_rewards(*tensors(scores, kl, mask), kl_coef)
    assert np.allclose(found, expected, atol=1e-4)


@given(shapes, st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_the_errors(shape, gamma: float, lam: float) -> None:
    """Equation 16: A_t = sum over l of (gamma lam)^l delta_(t+l), nothing following the last token."""
    mask, (rewards, values) = batch(shape, 2)
    advantages, returns = gae(*tensors(rewards, values, mask), gamma, lam)
    expected = np.zeros_like(rewards)
    for i, t in real(mask):
        n = int(mask[i].sum())
        v = [*values[i, :n], 0.0]
        expected[i, t] = sum((gamma * lam) ** (s - t) * (rewards[i, s] + gamma * v[s + 1] - v[s]) for s in range(t, n))
    assert np.allclose(advantages, expected, atol=1e-3)
    assert np.allclose(returns, (expected + values) * mask, atol=1e-3)


def test_gae_by_hand() -> None:
    # gamma 1, lambda 0.5, response of two tokens: delta_1 = 2 - 0.5 = 1.5, delta_0 = 0 + 0.5 - 1 = -0.5; A_0 = -0.5 + 0.75
    advantages, returns = gae(
        torch.tensor([[0.0, 2.0, 9.0]]), torch.tensor([[1.0, 0.5, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]]), 1.0, 0.5
    )
    assert advantages.tolist() == [[0.25, 1.5, 0.0]]
    assert returns.tolist() == [[1.25, 2.0, 0.0]]


@given(shapes, st.floats(0.05, 0.5))
def test_policy_loss(shape, clip: float) -> None:
    mask, (new, old, advantages) = batch(shape, 3)
    new, old = new / 5, old / 5
    terms, clipped, squares, ratios = [], [], [], []
    for at in real(mask):
        ratio = np.exp(new[at] - old[at])
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        terms.append(-min(ratio * advantages[at], bounded * advantages[at]))
        clipped.append(bounded * advantages[at] < ratio * advantages[at] - 1e-6)
        squares.append((new[at] - old[at]) ** 2 / 2)
        ratios.append(ratio)
    found = policy_loss(*tensors(new, old, advantages, mask), clip)
    assert found.loss.item() == pytest.approx(np.mean(terms), abs=1e-3)
    assert found.clipfrac.item() == pytest.approx(np.mean(clipped), abs=0.2 / len(clipped))
    assert found.approx_kl.item() == pytest.approx(np.mean(squares), abs=1e-4)
    assert found.ratio.item() == pytest.approx(np.mean(ratios), abs=1e-3)


@given(shapes, st.floats(0.05, 0.5))
def test_value_loss(shape, clip: float) -> None:
    mask, (new, old, returns) = batch(shape, 3)
    terms, errors = [], []
    for at in real(mask):
        bounded = old[at] + min(max(new[at] - old[at], -clip), clip)
        terms.append(max((new[at] - returns[at]) ** 2, (bounded - returns[at]) ** 2) / 2)
        errors.append((new[at] - returns[at]) ** 2)
    found = value_loss(*tensors(new, old, returns, mask), clip)
    assert found.loss.item() == pytest.approx(np.mean(terms), rel=1e-4)
    assert found.error.item() == pytest.approx(np.mean(errors), rel=1e-4)


@given(st.integers(2, 10), st.integers(0, 2**31))
def test_entropy(v: int, seed: int) -> None:
    z = np.random.default_rng(seed).normal(size=(3, v)) * 4
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    assert np.allclose(entropy(torch.tensor(z)), -(p * np.log(p)).sum(-1), atol=1e-4)


@given(shapes)
def test_explained_variance(shape) -> None:
    mask, (values, returns) = batch(shape, 2)
    at = tuple(np.array(real(mask)).T)
    if returns[at].var() > 0.1:
        expected = 1 - (returns[at] - values[at]).var() / returns[at].var()
        assert explained_variance(*tensors(values, returns, mask)).item() == pytest.approx(expected, abs=1e-3, rel=1e-3)


@given(shapes, st.integers(0, 2**31))
def test_padding_enters_nothing(shape, seed: int) -> None:
    """Any junk on padding leaves every figure the same."""
    mask, arrays = batch(shape, 4)
    junk = np.random.default_rng(seed).normal(size=mask.shape) * 50
    other = [np.where(mask > 0, array, junk) for array in arrays]

    def figures(a, b, c, d) -> list[float]:
        a, b, c, d, m = tensors(a, b, c, d, mask)
        advantages, returns = gae(a, b, m, 0.9, 0.8)
        pi, vf = policy_loss(a / 50, b / 50, c, m, 0.2), value_loss(a, b, c, m, 0.2)
        return [
            pi.loss.item(), pi.approx_kl.item(), pi.clipfrac.item(), vf.loss.item(), advantages.sum().item(),
            returns.sum().item(), whiten(d, m).sum().item(), token_rewards(a[:, 0] * m[:, 0], b, m, 0.1).sum().item(),
        ]  # fmt: skip

    assert np.allclose(figures(*arrays), figures(*other), atol=1e-4)

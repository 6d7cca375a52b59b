"""Every formula against NumPy in float64 written from its definition, one token at a time; both sides in float64, most to 1e-9.

Shapes, masks and lengths are drawn by hypothesis: responses of one token and batches of one response are among them.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from llmrl.config import KLEstimator, KLPlace, PPOConfig, Schedule, ScoreNormalization
from llmrl.models.distribution import entropy
from llmrl.ppo.advantages import gae, token_rewards
from llmrl.ppo.experience import Experience, scaled_scores
from llmrl.ppo.kl_control import KLController
from llmrl.ppo.losses import explained_variance, kl_estimate, policy_loss, value_loss
from llmrl.ppo.masked import masked_mean, masked_var, whiten
from llmrl.ppo.running import RunningStatistics
from llmrl.ppo.update import learning_rate_factor, token_loss
from llmrl.rollout import Distribution, token_logprobs

shapes = st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(0, 2**31), st.sampled_from(["mixed", "ones", "full"]))
seeds = st.integers(0, 2**31)
TOLERANCE = 1e-9


def batch(shape: tuple[int, int, int, str], columns: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A mask of responses of at least one token each, and random numbers, junk on padding included.

    Lengths are mixed, all one, or all full: nothing ended early, as when every response is cut off.
    """
    b, t, seed, kind = shape
    rng = np.random.default_rng(seed)
    lengths = {"mixed": rng.integers(1, t + 1, b), "ones": np.ones(b, int), "full": np.full(b, t)}[kind]
    mask = (np.arange(t)[None] < lengths[:, None]).astype(np.float64)
    return mask, [rng.normal(size=(b, t)) * 3 for _ in range(columns)]


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(array, dtype=torch.float64) for array in arrays]


def real(mask: np.ndarray) -> list[tuple[int, int]]:
    return [(i, j) for i, j in np.ndindex(*mask.shape) if mask[i, j]]


def close(found: torch.Tensor | np.ndarray | float, expected: np.ndarray | float) -> bool:
    return bool(np.allclose(np.asarray(found), expected, rtol=TOLERANCE, atol=TOLERANCE))


@given(seeds, st.integers(1, 4), st.integers(1, 6), st.integers(2, 9), st.floats(0.2, 3), st.integers(0, 8))
def test_logprobs_and_entropy(seed: int, b: int, t: int, v: int, temperature: float, least: int) -> None:
    """Of the distribution at its temperature, in which the first tokens can't be the stop token 0."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(b, t, v)) * 3
    tokens = rng.integers(1, v, (b, t))
    logprobs, entropies = np.zeros((b, t)), np.zeros((b, t))
    for i, j in np.ndindex(b, t):
        weights = np.exp(logits[i, j] / temperature)
        if j < least:
            weights[0] = 0.0
        p = weights / weights.sum()
        logprobs[i, j] = math.log(p[tokens[i, j]])
        entropies[i, j] = -sum(x * math.log(x) for x in p if x > 0)
    # Distribution works in fp32, as models do; the two formulas themselves are checked in float64 at temperature 1.
    scaled = Distribution(temperature, least, (0,)).apply(torch.tensor(logits))
    assert np.allclose(token_logprobs(scaled, torch.tensor(tokens)), logprobs, atol=2e-5)
    assert np.allclose(entropy(scaled), entropies, atol=2e-5)
    exact = torch.tensor(logits / temperature)
    exact[:, : min(least, t), 0] = -1e30
    assert close(token_logprobs(exact, torch.tensor(tokens)), logprobs)
    assert close(entropy(exact), entropies)


@given(shapes)
def test_masked_statistics_and_both_whitenings(shape) -> None:
    mask, (x,) = batch(shape, 1)
    values = np.array([x[at] for at in real(mask)])
    tx, tm = tensors(x, mask)
    assert close(masked_mean(tx, tm), values.mean())
    assert close(masked_var(tx, tm), values.var())
    scaled = values / np.sqrt(values.var() + 1e-8)
    middle = values.mean() / np.sqrt(values.var() + 1e-8)
    assume(values.std() > 1e-3 or len(values) == 1)  # else the epsilon, not the formula, is what is compared
    at = tuple(np.array(real(mask)).T)
    assert np.allclose(whiten(tx, tm).numpy()[at], scaled - middle, atol=1e-7)
    assert np.allclose(whiten(tx, tm, shift_mean=False).numpy()[at], scaled - middle + values.mean(), atol=1e-7)
    assert (whiten(tx, tm).numpy()[mask == 0] == 0).all()


@given(shapes, st.floats(0, 2))
def test_token_rewards(shape, kl_coef: float) -> None:
    mask, (kl, scores) = batch(shape, 2)
    scores = scores[:, 0]
    expected = np.zeros_like(kl)
    for i, j in real(mask):
        last = j == int(mask[i].sum()) - 1
        expected[i, j] = -kl_coef * kl[i, j] + (scores[i] if last else 0.0)
    assert close(token_rewards(*tensors(scores, kl, mask), kl_coef), expected)


@given(
    seeds, st.integers(1, 9), st.floats(0.1, 9), st.none() | st.floats(0.1, 5), st.floats(0, 3), st.sampled_from([0, 1, None])
)
def test_scores_are_scaled_clipped_and_fined(seed: int, b: int, scale: float, clip, penalty: float, finished) -> None:
    """All finished, none, or some."""
    rng = np.random.default_rng(seed)
    scores = (rng.normal(size=b) * 10).tolist()
    done = rng.integers(0, 2, b).astype(bool) if finished is None else np.full(b, bool(finished))
    expected = []
    for score, ended in zip(scores, done, strict=True):
        value = score / scale
        if clip is not None:
            value = min(max(value, -clip), clip)
        expected.append(value if ended else value - penalty)
    config = PPOConfig(score_scale=scale, score_clip=clip, missing_eos_penalty=penalty)
    assert np.allclose(scaled_scores(scores, torch.tensor(done), config), expected, rtol=1e-5, atol=1e-5)  # fp32


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
    assert close(advantages, expected)
    assert close(returns, (expected + values) * mask)


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
        ratio = math.exp(new[at] - old[at])
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        assume(abs(ratio - bounded) > 1e-9 or ratio == bounded)
        terms.append(-min(ratio * advantages[at], bounded * advantages[at]))
        clipped.append(bounded * advantages[at] < ratio * advantages[at])
        squares.append((new[at] - old[at]) ** 2 / 2)
        ratios.append(ratio)
    found = policy_loss(*tensors(new, old, advantages, mask), clip)
    assert close(found.loss, np.mean(terms))
    assert close(found.clipfrac, np.mean(clipped))
    assert close(found.approx_kl, np.mean(squares))
    assert close(found.ratio, np.mean(ratios))


@given(shapes, st.floats(0.05, 0.5))
def test_value_loss(shape, clip: float) -> None:
    mask, (new, old, returns) = batch(shape, 3)
    terms, errors, clipped = [], [], []
    for at in real(mask):
        bounded = old[at] + min(max(new[at] - old[at], -clip), clip)
        terms.append(max((new[at] - returns[at]) ** 2, (bounded - returns[at]) ** 2) / 2)
        errors.append((new[at] - returns[at]) ** 2)
        clipped.append((bounded - returns[at]) ** 2 - errors[-1])
    assume(all(gap == 0 or abs(gap) > 1e-9 for gap in clipped))
    found = value_loss(*tensors(new, old, returns, mask), clip)
    assert close(found.loss, np.mean(terms))
    assert close(found.error, np.mean(errors))
    inside = [abs(new[at] - old[at]) <= clip for at in real(mask)]
    assert close(found.clipfrac, np.mean([gap > 0 and not within for gap, within in zip(clipped, inside, strict=True)]))


def test_a_value_inside_its_range_is_not_counted_as_clipped() -> None:
    """old + (value - old) need not be the value to the bit, and would count: these did."""
    value, old, returns = (torch.tensor([[x]]) for x in (0.23510049283504486, 0.09978654235601425, 0.2104015350341797))
    assert value_loss(value, old, returns, torch.ones(1, 1), 0.2).clipfrac == 0


@given(shapes)
def test_kl_estimators(shape) -> None:
    mask, (new, reference) = batch(shape, 2)
    for at in real(mask):
        ratio = math.exp(reference[at] - new[at])  # p_ref / p
        expected = {"k1": -math.log(ratio), "k2": math.log(ratio) ** 2 / 2, "k3": ratio - 1 - math.log(ratio)}
        for name, value in expected.items():
            found = kl_estimate(*tensors(new[at], reference[at]), KLEstimator(name))
            assert math.isclose(found.item(), value, rel_tol=1e-7, abs_tol=1e-9)


@given(seeds, st.integers(2, 8))
def test_k1_and_k3_average_to_the_kl_and_k2_has_its_gradient(seed: int, v: int) -> None:
    """Sums over a whole vocabulary, so exact: E_p[k1] = E_p[k3] = KL(p || q), and grad E_p(fixed)[k2] = grad KL."""
    rng = np.random.default_rng(seed)
    z, q = torch.tensor(rng.normal(size=v), requires_grad=True), torch.tensor(rng.normal(size=v)).log_softmax(-1)
    log_p = z.log_softmax(-1)
    kl = (log_p.exp() * (log_p - q)).sum()
    weights = log_p.exp().detach()
    for name in ("k1", "k3"):
        assert math.isclose((weights * kl_estimate(log_p, q, KLEstimator(name))).sum().item(), kl.item(), abs_tol=1e-9)
    (true,) = torch.autograd.grad(kl, z, retain_graph=True)
    (of_k2,) = torch.autograd.grad((weights * kl_estimate(log_p, q, KLEstimator.k2)).sum(), z, retain_graph=True)
    (of_k1,) = torch.autograd.grad((weights * kl_estimate(log_p, q, KLEstimator.k1)).sum(), z)
    assert torch.allclose(of_k2, true, atol=1e-9)
    assert torch.allclose(of_k1, torch.zeros_like(true), atol=1e-9)  # why k1 in the loss is refused


@given(shapes)
def test_explained_variance(shape) -> None:
    mask, (values, returns) = batch(shape, 2)
    at = tuple(np.array(real(mask)).T)
    assume(returns[at].var() > 1e-6)
    expected = 1 - (returns[at] - values[at]).var() / returns[at].var()
    assert math.isclose(explained_variance(*tensors(values, returns, mask)).item(), expected, rel_tol=1e-7, abs_tol=1e-7)


@given(shapes, seeds)
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
            pi.loss.item(), pi.approx_kl.item(), pi.clipfrac.item(), pi.ratio.item(), vf.loss.item(), vf.error.item(),
            advantages.sum().item(), returns.sum().item(), whiten(d, m).sum().item(),
            whiten(d, m, shift_mean=False).sum().item(),
            token_rewards(a[:, 0] * m[:, 0], b, m, 0.1).sum().item(), explained_variance(a, b, m).item(),
        ]  # fmt: skip

    assert np.allclose(figures(*arrays), figures(*other), rtol=1e-9, atol=1e-9)


@given(st.lists(st.lists(st.floats(-100, 100), max_size=6), max_size=6))
def test_running_statistics_are_those_of_all_values(batches: list[list[float]]) -> None:
    running = RunningStatistics()
    for each in batches:
        running.update(each)
    everything = np.array([value for each in batches for value in each])
    assert running.count == len(everything)
    if len(everything):
        assert math.isclose(running.mean, everything.mean(), abs_tol=1e-9)
        assert math.isclose(running.deviation, everything.std(), abs_tol=1e-6)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_scores_are_normalised_by_all_scores_so_far(first: list[float], second: list[float]) -> None:
    everything = np.array(first + second)
    assume(everything.std() > 1e-3)
    running = RunningStatistics()
    running.update(first)
    running.update(second)
    assert np.allclose(running.normalize(second, ScoreNormalization.scale), np.array(second) / everything.std(), atol=1e-6)
    expected = (np.array(second) - everything.mean()) / everything.std()
    assert np.allclose(running.normalize(second, ScoreNormalization.standardize), expected, atol=1e-6)
    assert running.normalize(second, ScoreNormalization.none) == second


def test_equal_scores_are_not_divided_by_zero() -> None:
    running = RunningStatistics()
    running.update([3.0, 3.0])
    assert running.normalize([3.0], ScoreNormalization.standardize) == [3.0]


@given(st.lists(st.floats(0, 60), min_size=1, max_size=12), st.floats(0.5, 20), st.integers(1, 64), st.integers(64, 5000))
def test_adaptive_kl_is_a_product_of_clipped_errors(kls: list[float], target: float, episodes: int, horizon: int) -> None:
    controller = KLController(coef=0.1, target=target, horizon=horizon)
    expected = 0.1
    for kl in kls:
        controller.update(kl, episodes)
        error = (kl - target) / target
        expected *= 1 + (0.2 if error > 0.2 else -0.2 if error < -0.2 else error) * episodes / horizon
    assert math.isclose(controller.coef, expected, rel_tol=1e-12)


def test_a_fixed_kl_coefficient_stays() -> None:
    controller = KLController(coef=0.1)
    controller.update(1000.0, 1000)
    assert controller.coef == 0.1


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.constant, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        (Schedule.linear, [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        (Schedule.cosine, [1 / 3, 2 / 3, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_schedules_by_hand(schedule: Schedule, expected: list[float]) -> None:
    config = PPOConfig(lr_schedule=schedule, warmup_steps=2)
    assert [learning_rate_factor(step, 6, config) for step in range(6)] == pytest.approx(expected)


@given(shapes, st.sampled_from(list(KLPlace)), st.floats(0, 2), st.floats(0, 2), st.floats(0, 2), st.floats(0.05, 0.5))
def test_the_loss_is_the_sum_of_its_terms(
    shape: tuple[int, int, int, str], place: KLPlace, vf_coef: float, entropy_coef: float, kl_coef: float, clip: float
) -> None:
    """Clipped policy loss + vf_coef x value loss + kl_coef x k2 where it stands in the loss - entropy_coef x entropy."""
    mask, (new, old, advantages, values, old_values, returns, reference, entropies) = batch(shape, 8)
    where = np.flatnonzero(mask)
    config = PPOConfig(
        vf_coef=vf_coef, entropy_coef=entropy_coef, clip_range=clip, value_clip_range=2 * clip, kl_place=place,
        kl_estimator=KLEstimator.k2 if place is KLPlace.loss else KLEstimator.k1,
    )  # fmt: skip
    nothing = torch.zeros(mask.shape)
    part = Experience(
        tokens=nothing, attention_mask=nothing, response_mask=torch.tensor(mask), logprobs=torch.tensor(old),
        reference_logprobs=torch.tensor(reference), values=torch.tensor(old_values), entropies=nothing, rewards=nothing,
        advantages=torch.tensor(advantages), returns=torch.tensor(returns),
    )  # fmt: skip
    now = [torch.tensor(each.flatten()[where]) for each in (new, entropies, values)]
    entropy_now = now[1] if entropy_coef else None
    loss, figures = token_loss(part, torch.tensor(where), now[0], entropy_now, now[2], config, kl_coef)
    total = 0.0
    for b, t in zip(*np.nonzero(mask), strict=True):
        ratio = np.exp(new[b, t] - old[b, t])
        total += max(-advantages[b, t] * ratio, -advantages[b, t] * min(max(ratio, 1 - clip), 1 + clip))
        clipped = min(max(values[b, t], old_values[b, t] - 2 * clip), old_values[b, t] + 2 * clip)
        total += vf_coef * 0.5 * max((values[b, t] - returns[b, t]) ** 2, (clipped - returns[b, t]) ** 2)
        if place is KLPlace.loss:
            total += kl_coef * 0.5 * (new[b, t] - reference[b, t]) ** 2
        total -= entropy_coef * entropies[b, t]
    assert loss.item() == pytest.approx(total / len(where), rel=1e-9, abs=1e-9)
    assert figures["loss"].item() == loss.item()

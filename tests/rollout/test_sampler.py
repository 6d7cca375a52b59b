"""The sampler against transformers' own, against arithmetic, and against itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.config import RolloutConfig
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy
from llmrl.prompts import Prompt
from llmrl.rollout import sample, token_logprobs, warp
from llmrl.rollout.sampler import draw

PROMPTS = [Prompt(text, id=text) for text in ("Once upon a time", "Bread rises because", "On Sunday morning, the town")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_greedy_agrees_with_transformers(tiny: LanguageModel) -> None:
    rollout = sample(tiny, PROMPTS, RolloutConfig(max_new_tokens=20), generator(), greedy=True)
    for row, prompt in enumerate(PROMPTS):
        batch = tiny.tokenizer(prompt.text, return_tensors="pt")
        peer = tiny.model.generate(**batch, max_new_tokens=20, do_sample=False, pad_token_id=0)[
            0, batch["input_ids"].shape[1] :
        ]
        count = int(rollout.response_mask[row].sum())
        assert rollout.response_tokens[row, :count].tolist() == peer.tolist()[:count]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_k": 20}, {"top_p": 0.8, "temperature": 1.3}])
def test_logprobs_agree_with_a_fresh_forward(tiny: LanguageModel, options: dict) -> None:
    config = RolloutConfig(max_new_tokens=24, **options)
    rollout = sample(tiny, PROMPTS, config, generator())
    with torch.no_grad():
        logits = Policy(tiny)(rollout.tokens, rollout.attention_mask, rollout.response_length).logits
    fresh = warp(logits, config).log_softmax(-1).gather(-1, rollout.response_tokens.unsqueeze(-1)).squeeze(-1)
    real = rollout.response_mask.bool()
    assert torch.allclose(fresh[real], rollout.logprobs[real], atol=1e-4)
    assert (rollout.logprobs[~real] == 0).all()


def test_one_seed_gives_the_same_responses_and_another_gives_others(tiny: LanguageModel) -> None:
    config = RolloutConfig(max_new_tokens=16)
    first, again, other = (sample(tiny, PROMPTS, config, generator(seed)).texts for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_response_ends_at_its_stop_token(tiny: LanguageModel) -> None:
    """A stop token that comes soon: responses end with it, are masked after it, and are decoded without it."""
    tiny.stop_ids = tuple(tiny.tokenizer.convert_tokens_to_ids([".", "Ġthe", ","]))
    rollout = sample(tiny, PROMPTS * 4, RolloutConfig(max_new_tokens=12), generator(3))
    assert rollout.finished.any()
    for row, text in enumerate(rollout.texts):
        ids = rollout.response_tokens[row][rollout.response_mask[row].bool()].tolist()
        assert rollout.response_mask[row].tolist() == sorted(rollout.response_mask[row].tolist(), reverse=True)
        assert not set(ids[:-1]) & set(tiny.stop_ids)
        assert (ids[-1] in tiny.stop_ids) == bool(rollout.finished[row])
        assert tiny.tokenizer.decode(ids[:-1] if rollout.finished[row] else ids) == text
        assert rollout.samples(12)[row].token_ids == tuple(ids)


def test_drawing_follows_the_distribution() -> None:
    """Chi-squared test of 40,000 draws from 8 tokens; 24.32 is its 99.9 % quantile at 7 degrees of freedom."""
    probabilities = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005])
    draws = draw(probabilities.log().expand(40_000, 8), generator())
    counts = np.bincount(draws.numpy(), minlength=8)
    expected = probabilities.numpy() * 40_000
    assert ((counts - expected) ** 2 / expected).sum() < 24.32


def test_what_has_no_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(10_000, 5)
    assert set(draw(logits.log_softmax(-1), generator()).tolist()) == {1, 3}


@settings(max_examples=60)
@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=12, unique=True), st.floats(0.1, 3), st.integers(0, 12), st.floats(0.05, 1)
)
def test_the_warped_distribution_against_numpy(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    """Temperature, then the k likeliest, then the smallest set of the likeliest whose mass reaches p."""
    z = np.array(logits, dtype=np.float32).astype(np.float64) / temperature
    order = np.argsort(-z, kind="stable")
    keep = set(order[: top_k or len(z)].tolist())
    p = np.where([i in keep for i in range(len(z))], np.exp(z - z.max()), 0.0)
    p /= p.sum()
    if top_p < 1:
        mass, kept = 0.0, set()
        for i in order:
            if mass >= top_p - 1e-5 and abs(mass - top_p) < 1e-5:
                return  # on the edge: fp32 and fp64 may differ
            if mass < top_p:
                kept.add(int(i))
            mass += p[i]
        p = np.where([i in kept for i in range(len(z))], p, 0.0)
        p /= p.sum()
    config = RolloutConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    found = warp(torch.tensor(logits, dtype=torch.float32), config).softmax(-1).numpy()
    assert np.allclose(found, p, atol=1e-4)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 9), st.floats(0.2, 3), st.integers(0, 2**31))
def test_token_logprobs_against_numpy(b: int, t: int, v: int, temperature: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, tokens = rng.normal(size=(b, t, v)) * 5, rng.integers(0, v, (b, t))
    z = logits / temperature
    expected = np.take_along_axis(z - np.log(np.exp(z).sum(-1, keepdims=True)), tokens[..., None], -1)[..., 0]
    found = token_logprobs(torch.tensor(logits), torch.tensor(tokens), temperature)
    assert np.allclose(found, expected, atol=1e-4)


def test_a_prompt_too_long_is_refused_with_what_would_fit(tiny: LanguageModel) -> None:
    long = Prompt("word " * 480, id="long-one")
    with pytest.raises(UserError, match=r"prompt long-one has 48\d tokens; with 64 new ones that is more than the 512"):
        sample(tiny, [long], RolloutConfig(max_new_tokens=64), generator())
    with pytest.raises(UserError, match="has no tokens"):
        sample(tiny, [Prompt("", id="e")], RolloutConfig(), generator())

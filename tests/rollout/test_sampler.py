"""The sampler against transformers' own, against arithmetic, and against itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.config import RolloutConfig
from llmrl.errors import RunError, UserError
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy
from llmrl.prompts import Prompt
from llmrl.rollout import Distribution, sample, truncate
from llmrl.rollout.sampler import choose

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


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"top_k": 20}, {"top_p": 0.8, "temperature": 1.3}, {"min_new_tokens": 9}]
)
def test_logprobs_agree_with_a_fresh_forward(tiny: LanguageModel, options: dict) -> None:
    config = RolloutConfig(max_new_tokens=24, **options)
    rollout = sample(tiny, PROMPTS, config, generator())
    with torch.no_grad():
        logits = Policy(tiny)(rollout.tokens, rollout.attention_mask, rollout.response_length).logits
    fresh = (
        truncate(Distribution.of(tiny, config).apply(logits), config)
        .log_softmax(-1)
        .gather(-1, rollout.response_tokens.unsqueeze(-1))
        .squeeze(-1)
    )
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
    draws, logprobs = choose(
        probabilities.log().expand(40_000, 8), torch.rand(40_000, generator=generator(), dtype=torch.float64)
    )
    assert torch.allclose(logprobs, probabilities.log()[draws], atol=1e-5)
    counts = np.bincount(draws.numpy(), minlength=8)
    expected = probabilities.numpy() * 40_000
    assert ((counts - expected) ** 2 / expected).sum() < 24.32


def test_what_has_no_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(10_000, 5)
    assert set(choose(logits, torch.rand(10_000, generator=generator(), dtype=torch.float64))[0].tolist()) == {1, 3}


def test_drawing_from_a_large_vocabulary() -> None:
    """Several blocks and a rest: the tokens that the whole cumulative sum gives, and a chi-squared test of 60,000 draws."""
    logits = torch.randn(1000, generator=generator(1))
    uniform = torch.rand(60_000, generator=generator(), dtype=torch.float64)
    draws, _ = choose(logits.expand(60_000, -1), uniform)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    by_hand = torch.searchsorted(cumulative, uniform, right=True)
    assert (draws != by_hand).float().mean() < 1e-3  # fp32 probabilities: a number on the edge may fall to the neighbour
    assert (draws - by_hand).abs().max() <= 1
    expected = 60_000 * logits.softmax(-1).double().numpy()
    counts = np.bincount(draws.numpy(), minlength=1000)
    assert ((counts - expected) ** 2 / expected).sum() < 1142  # 99.9 % quantile at 999 degrees of freedom


def test_logits_that_are_no_numbers_are_said() -> None:
    with pytest.raises(RunError, match=r"its weights have diverged; try a lower ppo.lr"):
        choose(torch.tensor([[0.0, float("nan"), 1.0]]), torch.rand(1, dtype=torch.float64))


def test_top_p_cuts_bf16_logits_where_it_cuts_fp32_ones() -> None:
    """Logits as low as GPT-2's, at which bf16 has steps of a quarter: the sums must not be made in it."""
    logits = (torch.randn(4, 2000, generator=generator(2)) * 2 - 60).bfloat16()
    for config in (RolloutConfig(top_p=0.95), RolloutConfig(top_k=50, top_p=0.95)):
        kept = [truncate(each, config).isfinite() for each in (logits, logits.float())]
        assert torch.equal(*kept)
        assert 1 < kept[0].sum() < kept[0].numel()


@settings(max_examples=60)
@given(
    st.lists(st.floats(-5, 5, width=16), min_size=2, max_size=12, unique=True),
    st.floats(0.1, 3),
    st.integers(0, 12),
    st.floats(0.05, 1),
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
    scaled = Distribution(temperature).apply(torch.tensor([logits], dtype=torch.float32))
    found = truncate(scaled, config).softmax(-1)[0].numpy()
    assert np.allclose(found, p, atol=1e-4)


def test_no_response_ends_before_its_minimum_length(tiny: LanguageModel) -> None:
    """With stop tokens that come soon: none within the minimum, and one as soon as it may be."""
    tiny.stop_ids = tuple(tiny.tokenizer.convert_tokens_to_ids([".", "Ġthe", ",", "Ġa"]))
    rollout = sample(tiny, PROMPTS * 8, RolloutConfig(max_new_tokens=12, min_new_tokens=6), generator(3))
    lengths = rollout.response_mask.sum(-1)
    assert lengths.min() >= 7  # six tokens, then one that ends it
    assert (lengths < 12).any()
    assert not torch.isin(rollout.response_tokens[:, :6], torch.tensor(tiny.stop_ids)).any()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("least", [0, 8])
def test_a_response_is_cut_at_its_stop_text(tiny: LanguageModel, keep: bool, least: int) -> None:
    """Its tokens end with the one that completed the text; what is scored ends before or after the text itself."""
    config = RolloutConfig(max_new_tokens=24, min_new_tokens=least, stop=[".", " the"], include_stop=keep)
    rollout = sample(tiny, PROMPTS * 8, config, generator(1))
    assert rollout.finished.float().mean() > 0.5
    for row, text in enumerate(rollout.texts):
        ids = rollout.response_tokens[row][rollout.response_mask[row].bool()].tolist()
        whole, early = tiny.tokenizer.decode(ids), tiny.tokenizer.decode(ids[: max(least - 1, 0)])
        if ids[-1] in tiny.stop_ids or not rollout.finished[row]:
            continue
        assert len(ids) >= least
        cut = min(at for stop in config.stop if (at := whole.find(stop, max(len(early) + 1 - len(stop), 0))) >= 0)
        assert text == (whole[: cut + (1 if whole[cut] == "." else 4)] if keep else whole[:cut])
        assert not any(stop in tiny.tokenizer.decode(ids[:-1])[len(early) :] for stop in config.stop)


def test_a_prompt_too_long_is_refused_with_what_would_fit(tiny: LanguageModel) -> None:
    long = Prompt("word " * 480, id="long-one")
    with pytest.raises(UserError, match=r"prompt long-one has 48\d tokens; with 64 new ones that is more than the 512"):
        sample(tiny, [long], RolloutConfig(max_new_tokens=64), generator())
    with pytest.raises(UserError, match="has no tokens"):
        sample(tiny, [Prompt("", id="e")], RolloutConfig(), generator())


@pytest.mark.parametrize("top_k", [0, 1, 5, 50, 2000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_cut_off_is_what_the_definitions_say(top_k: int, top_p: float, dtype: torch.dtype) -> None:
    """Row by row from the sorted probabilities; in bf16 many tokens tie with the last one that is kept."""
    logits = (3 * torch.randn(6, 3000, generator=generator())).to(dtype)
    kept = truncate(logits, RolloutConfig(top_k=top_k, top_p=top_p)).isfinite()
    wrong = 0
    for row, found in zip(logits.double(), kept, strict=True):
        least = row.sort(descending=True).values[top_k - 1] if 0 < top_k < len(row) else row.min()
        among = row[row >= least]
        likely = among.sort(descending=True).values
        before = likely.softmax(-1).cumsum(-1) - likely.softmax(-1)
        nucleus = likely[before < top_p][-1] if top_p < 1 else least
        wrong += int((found != (row >= max(least, nucleus))).sum())
        assert found.any()
    assert wrong <= (top_p < 1)  # in all rows together: a sum in fp32 that falls on the edge

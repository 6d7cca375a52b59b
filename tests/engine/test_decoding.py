"""Decoding in place against the model's own forward pass, and sampling from it against arithmetic."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Lfm2Config, Lfm2ForCausalLM

from llmrl.config import ModelConfig, Precision, RolloutConfig
from llmrl.engine.packing import pack
from llmrl.models.load import LanguageModel, load
from llmrl.prompts import Prompt
from llmrl.rollout import Distribution, response_logprobs, sample
from llmrl.rollout.decoding import PlainDecoder

LENGTHS = (1, 7, 4, 7, 2)


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(20, 4000, (len(LENGTHS), 7), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(7)[None] >= 7 - torch.tensor(LENGTHS)[:, None]).long()
    return tokens, mask


@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
def test_logits_are_those_of_the_plain_path(family: LanguageModel, bf16: bool) -> None:
    """Rows of unequal lengths, some of which are dropped on the way. In bf16, to its rounding."""
    language_model = dataclasses.replace(family, bf16=bf16)
    tokens, mask = prompts()
    engine, plain = language_model.engine, PlainDecoder(language_model)
    assert engine is not None
    fast = engine.decoder()
    logits, expected = fast.read(tokens, mask), plain.read(tokens, mask)
    scale = float(expected.float().std())
    for step in range(40):  # past a block of the cache
        tolerance = 1e-4 if not bf16 else 0.05 * scale
        assert torch.allclose(logits.float(), expected.float(), atol=tolerance), step
        if step in (3, 30):
            kept = torch.arange(len(logits) - 1, 0, -2)  # some rows, in another order
            fast.keep(kept)
            plain.keep(kept)
            expected = expected[kept]
        new = expected.float().argmax(-1)
        logits, expected = fast.step(new), plain.step(new)


@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
def test_prompts_that_stand_in_several_rows_are_read_once(family: LanguageModel, bf16: bool) -> None:
    """Rows go on by themselves from what they share, and are put in the order they were given in."""
    language_model = dataclasses.replace(family, bf16=bf16)
    tokens, mask = (each[[3, 0, 3, 1, 0, 3]] for each in prompts())
    engine, plain = language_model.engine, PlainDecoder(language_model)
    assert engine is not None
    read, fast = [], engine.decoder()
    fast._read = lambda *given: read.append(len(given[0])) or type(fast)._read(fast, *given)
    logits, expected = fast.read(tokens, mask), plain.read(tokens, mask)
    assert read == [3]
    tolerance = 1e-4 if not bf16 else 0.05 * float(expected.float().std())
    for new in torch.randint(20, 4000, (3, 6), generator=torch.Generator().manual_seed(1)):
        assert torch.allclose(logits.float(), expected.float(), atol=tolerance)
        logits, expected = fast.step(new), plain.step(new)


@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
def test_weights_are_laid_out_anew_once_they_have_changed(family: LanguageModel, bf16: bool) -> None:
    """And not before; passes of learning give them up."""
    language_model = dataclasses.replace(family, bf16=bf16)
    tokens, mask = prompts()
    engine = language_model.engine
    assert engine is not None
    before, laid_out = engine.decoder().read(tokens, mask), engine._laid_out
    assert torch.equal(engine.decoder().read(tokens, mask), before)
    assert engine._laid_out is laid_out
    for parameter in language_model.model.parameters():
        parameter.mul_(1.5)
    changed = engine.decoder().read(tokens, mask)
    assert engine._laid_out is not laid_out
    assert not torch.allclose(changed, before, atol=1e-2)
    engine.score(pack(tokens, mask, mask[:, 3:]), None)
    assert engine._laid_out is None


@torch.no_grad()
def test_the_plain_path_drops_rows_of_any_cache(tiny: LanguageModel) -> None:
    """A model whose layers keep convolutions beside keys and values: the rows that go on say what they said alone."""
    config = Lfm2Config(
        vocab_size=4096, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention", "conv", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    language_model = dataclasses.replace(tiny, model=Lfm2ForCausalLM(config).eval())
    tokens, mask = torch.randint(20, 4000, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    together, alone = PlainDecoder(language_model), PlainDecoder(language_model)
    together.read(tokens, mask)
    alone.read(tokens[2:], mask[2:])
    together.keep(torch.tensor([2]))
    for new in (7, 8):
        assert torch.allclose(together.step(torch.tensor([new])), alone.step(torch.tensor([new])), atol=1e-5)


def test_rows_that_end_early_do_not_change_the_others(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping rows or computing them along: the same responses, from the same random numbers."""
    tiny.stop_ids = tuple(tiny.tokenizer.convert_tokens_to_ids([".", "Ġthe", ","]))
    asked = [Prompt(text, id=text) for text in ("Once upon a time", "Bread", "On Sunday morning, the town")] * 8
    config = RolloutConfig(max_new_tokens=24)
    dropping = sample(tiny, asked, config, torch.Generator().manual_seed(5))
    assert dropping.response_mask.sum(-1).unique().numel() > 4
    monkeypatch.setattr("llmrl.rollout.sampler.WORTH_DROPPING", -1.0)
    along = sample(tiny, asked, config, torch.Generator().manual_seed(5))
    same = torch.tensor([one == other for one, other in zip(dropping.texts, along.texts, strict=True)])
    assert same.sum() >= len(asked) - 1  # a product of fewer rows rounds another way: one draw in thousands falls on an edge
    steps = min(dropping.logprobs.shape[1], along.logprobs.shape[1])
    said, otherwise = (each.tokens[:, -each.logprobs.shape[1] :][:, :steps] for each in (dropping, along))
    shared = (said == otherwise).cumprod(-1).bool()  # until that draw
    assert shared[same].all()
    assert torch.allclose(dropping.logprobs[:, :steps][shared], along.logprobs[:, :steps][shared], atol=1e-4)


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize(
    "options", [{"temperature": 2.0}, {"temperature": 4.0}, {"temperature": 4.0, "top_k": 8, "top_p": 0.9}]
)
def test_tokens_follow_the_models_own_distribution(precision: Precision, options: dict) -> None:
    """Chi-squared tests of 6,000 responses, on the small vocabulary of the random walks, against plain transformers.

    Of first tokens, which are drawn where the prompt was read, and of second and third ones after the commonest beginnings,
    which are drawn from the cache and the weights laid out.
    """
    language_model = load(ModelConfig(name_or_path="packaged:random_walks", precision=precision))
    prompt, draws = Prompt("d", id="d"), 6000
    config = RolloutConfig(max_new_tokens=3, **options)
    tokens = sample(language_model, [prompt] * draws, config, torch.Generator().manual_seed(11)).response_tokens
    given = language_model.tokenizer("d")["input_ids"]
    beginnings: list[list[int]] = [[]]
    for length in (1, 2):
        seen = Counter(tuple(row) for row in tokens[:, :length].tolist() if not set(row) & set(language_model.stop_ids))
        beginnings += [list(row) for row, count in seen.most_common(3) if count > 300]
    assert {len(begun) for begun in beginnings} == {0, 1, 2}
    for begun in beginnings:
        rows = (tokens[:, : len(begun)] == torch.tensor(begun, dtype=torch.long)).all(-1)
        with torch.no_grad():
            logits = language_model.model(torch.tensor([[*given, *begun]])).logits[0, -1].double()
        check_distribution(tokens[rows, len(begun)].numpy(), cut(logits / config.temperature, config).numpy())


def cut(logits: Tensor, config: RolloutConfig) -> Tensor:
    """Probabilities, by top-k and then top-p."""
    if config.top_k:
        logits[logits < logits.topk(config.top_k).values[-1]] = -torch.inf
        ordered, order = logits.softmax(-1).sort(descending=True)
        logits[order[ordered.cumsum(-1) - ordered >= config.top_p]] = -torch.inf
    return logits.softmax(-1)


def check_distribution(drawn: np.ndarray, probabilities: np.ndarray) -> None:
    expected = len(drawn) * probabilities
    counts = np.bincount(drawn, minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    assert common.sum() >= 2
    rest, rest_expected = counts[~common].sum(), expected[~common].sum()
    statistic = ((counts[common] - expected[common]) ** 2 / expected[common]).sum()
    statistic += (rest - rest_expected) ** 2 / max(rest_expected, 1.0)
    degrees = int(common.sum())
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5 + 6  # beyond the 99.9 % quantile


def test_log_probabilities_of_sampling_are_unbiased_in_bf16(tiny: LanguageModel) -> None:
    """Token by token, against one pass in fp32 over the same responses."""
    asked = [Prompt(text, id=text) for text in ("Once upon a time", "Bread", "On Sunday morning, the town")] * 24
    half = dataclasses.replace(tiny, bf16=True)
    rollout = sample(half, asked, RolloutConfig(max_new_tokens=32), torch.Generator().manual_seed(3))
    exact = response_logprobs(tiny, rollout, Distribution())
    errors = (rollout.logprobs - exact)[rollout.response_mask.bool()]
    assert len(errors) > 1000
    assert errors.std() > 0
    assert errors.mean().abs() < 4 * errors.std() / len(errors) ** 0.5


def test_one_seed_gives_the_same_bits(tiny: LanguageModel) -> None:
    half = dataclasses.replace(tiny, bf16=True)
    asked = [Prompt(text, id=text) for text in ("Once upon a time", "Bread")] * 5
    first, second = (sample(half, asked, RolloutConfig(max_new_tokens=30), torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.logprobs, second.logprobs)

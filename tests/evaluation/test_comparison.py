import json

import numpy as np
import pytest
import torch

from llmrl.config import EvaluationConfig, RolloutConfig
from llmrl.evaluation.bootstrap import Interval, paired_interval, verdict
from llmrl.evaluation.comparison import compare, repeats, write_comparison
from llmrl.models.load import LanguageModel
from llmrl.prompts import Prompt
from llmrl.rewards import Sample
from llmrl.rewards.no_repeat import NoRepeat

PROMPTS = [Prompt(f"The {word} was", id=word) for word in "cat dog sea king road bell hill lamp boat moon star tree".split()]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """400 experiments of 60 prompts: a 95 % interval misses the true mean in about 20 of them."""
    rng = np.random.default_rng(0)
    misses = 0
    for seed in range(400):
        prompt_effect = rng.normal(0.3, 1.0, (60, 1))
        interval = paired_interval(prompt_effect + rng.normal(0, 0.5, (60, 2)), seed)
        misses += not interval.low <= 0.3 <= interval.high
    assert 8 <= misses <= 40


def test_few_prompts_are_said() -> None:
    assert "alone" in paired_interval(np.ones((3, 30)), 0).resampled
    assert paired_interval(np.ones((20, 2)), 0).resampled == "20 prompts"


def test_an_interval_that_covers_zero_is_no_improvement() -> None:
    assert verdict(Interval(0.5, -0.01, 1.0, "")) == "no evidence"
    assert verdict(Interval(0.5, 0.0, 1.0, "")) == "no evidence"
    assert verdict(Interval(0.5, 0.01, 1.0, "")) == "improved"
    assert verdict(Interval(-0.5, -1.0, -0.01, "")) == "worse"


def test_a_model_is_no_better_than_itself(tiny: LanguageModel, tmp_path) -> None:
    """Paired random numbers: the same model gives the same responses, a difference of exactly zero, and a KL of zero."""
    twin = tiny.frozen_copy()
    config = EvaluationConfig(samples=64, batch_size=32)
    found = compare(tiny, twin, PROMPTS, {"no_repeat": NoRepeat()}, RolloutConfig(max_new_tokens=12), config)
    assert (found.difference.mean, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.verdict == "no evidence"
    assert found.kl == pytest.approx(0, abs=1e-4)
    assert found.base == found.trained
    assert found.samples >= 64
    assert found.samples % found.prompts == 0
    write_comparison(tmp_path / "evaluation.json", found)
    assert len(json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["pairs"]) == found.samples


def test_a_worse_model_is_called_worse(tiny: LanguageModel) -> None:
    broken = tiny.frozen_copy()
    with torch.no_grad():
        broken.model.get_output_embeddings().weight.zero_()  # every token as likely as any other
    broken.stop_ids = (*broken.stop_ids, *range(200))  # and the response over at once
    config = EvaluationConfig(samples=64)
    found = compare(tiny, broken, PROMPTS, {"no_repeat": NoRepeat()}, RolloutConfig(max_new_tokens=12), config)
    assert found.verdict == "worse"
    assert found.kl > 1
    assert found.trained.perplexity_under_base > 3 * found.base.perplexity_under_base


def test_repeating_is_three_words_again_or_one_at_once() -> None:
    assert repeats(Sample(prompt="", response="on the old road and on the old bridge"))
    assert repeats(Sample(prompt="on the old", response="on the old road"))
    assert repeats(Sample(prompt="", response="a very very old road"))
    assert not repeats(Sample(prompt="", response="on the old road and in the new house"))

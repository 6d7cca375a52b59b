"""The same invariants on SmolLM2-135M: another architecture (Llama, tied embeddings), real weights, fp32."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmrl.config import Device, ModelConfig, Precision, RolloutConfig
from llmrl.models.load import LanguageModel, load
from llmrl.models.places import cache_folder
from llmrl.prompts import Prompt
from llmrl.rollout import Distribution, response_logprobs, sample
from tests.ppo.test_invariants import VARIANTS, setting


@pytest.fixture(scope="module")
def smollm2(smollm2_folder: Path) -> LanguageModel:
    return load(ModelConfig(name_or_path=str(smollm2_folder), precision=Precision.fp32, device=Device.cpu))


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.parametrize("place", ["HuggingFaceTB--SmolLM2-135M-Instruct", "distilgpt2-shape"])
def test_the_engine_against_transformers(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probabilities of sampling and of a pass, at full width: to 1e-4 in fp32."""
    settings = ModelConfig(name_or_path=str(cache_folder() / place), precision=Precision.fp32, device=Device.cpu)
    language_model = load(settings)
    asked = [Prompt(text, id=text) for text in ("The moon is", "Bread", "On Sunday morning, the town was")]
    rollout = sample(language_model, asked, RolloutConfig(max_new_tokens=12), torch.Generator().manual_seed(4))
    fast = response_logprobs(language_model, rollout, Distribution())
    assert language_model.engine is not None
    monkeypatch.setattr(LanguageModel, "engine", property(lambda _: None))
    plain = response_logprobs(language_model, rollout, Distribution())
    real = rollout.response_mask.bool()
    assert torch.allclose(fast[real], plain[real], atol=1e-4)
    assert torch.allclose(rollout.logprobs[real], plain[real], atol=1e-4)


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen trunk", "adapters", "checkpointed"])
def test_invariants(smollm2: LanguageModel, name: str) -> None:
    config = replace(VARIANTS[name], frozen_layers=28 if name == "frozen trunk" else 0)  # of 30
    made = setting(smollm2.frozen_copy(), config, max_new_tokens=6)
    experience = made.experience()
    assert experience.kl.abs().max() <= 1e-5
    assert torch.allclose(experience.logprobs, made.rollout.logprobs, atol=1e-4)
    metrics = made.update(experience, lr=1e-30, value_lr=1e-30, epochs=1)
    assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-5)
    made.update(experience, lr=1e-4, epochs=1)
    after = made.experience()
    assert torch.equal(after.reference_logprobs, experience.reference_logprobs)
    assert not torch.equal(after.logprobs, experience.logprobs)

"""Invariants of the policy on a real model."""

import pytest
import torch

from llmrl.config import RolloutConfig
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy, position_ids
from llmrl.prompts import Prompt
from llmrl.rollout import Distribution, sample, token_logprobs

PROMPTS = [Prompt(text, id=text) for text in ("Once", "The old clockmaker opened the door and", "Rain falls when")]


def test_positions_count_real_tokens() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_values_start_at_zero(tiny: LanguageModel) -> None:
    rollout = sample(tiny, PROMPTS, RolloutConfig(max_new_tokens=5), torch.Generator().manual_seed(0))
    outputs = Policy(tiny)(rollout.tokens, rollout.attention_mask, rollout.response_length)
    assert torch.equal(outputs.values, torch.zeros(3, rollout.response_length))
    assert outputs.logits.shape[:2] == outputs.values.shape


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_left_padding_changes_nothing(tiny: LanguageModel, temperature: float) -> None:
    """A prompt alone, and the same prompt padded in a batch, have equal log-probabilities and values."""
    policy, distribution = Policy(tiny), Distribution(temperature)
    torch.nn.init.normal_(policy.value_head.layers[-1].weight)
    rollout = sample(tiny, PROMPTS, RolloutConfig(max_new_tokens=8), torch.Generator().manual_seed(1))
    length = rollout.response_length
    with torch.no_grad():
        together = policy(rollout.tokens, rollout.attention_mask, length)
        logprobs = token_logprobs(distribution.apply(together.logits), rollout.response_tokens)
        for row in range(len(PROMPTS)):
            first = int(rollout.attention_mask[row].argmax())
            alone = policy(rollout.tokens[row : row + 1, first:], rollout.attention_mask[row : row + 1, first:], length)
            alone_logprobs = token_logprobs(distribution.apply(alone.logits), rollout.response_tokens[row : row + 1])
            real = rollout.response_mask[row].bool()
            assert torch.allclose(alone_logprobs[0, real], logprobs[row, real], atol=1e-4)
            assert torch.allclose(alone.values[0, real], together.values[row, real], atol=1e-4)

"""What must hold before the first optimiser step, on the real tiny model in fp32."""

from dataclasses import fields

import pytest
import torch

from llmrl.config import PPOConfig, RolloutConfig
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy
from llmrl.ppo.experience import Experience, make_experience, scaled_scores
from llmrl.ppo.update import make_optimizer, update
from llmrl.prompts import Prompt
from llmrl.rewards import Scores
from llmrl.rollout import Rollout, sample

PROMPTS = [Prompt(text, id=text) for text in ("Once", "The old clockmaker opened the door and", "Rain falls when", "I like")]
ROLLOUT = RolloutConfig(max_new_tokens=10, temperature=0.8)


def scores_of(rollout: Rollout) -> Scores:
    total = [float(text.count("e")) for text in rollout.texts]
    return Scores(total=total, components={"e": total}, weights={"e": 1.0})


def made(tiny: LanguageModel, config: PPOConfig) -> tuple[Policy, Rollout, Experience]:
    policy = Policy(tiny)
    rollout = sample(tiny, PROMPTS, ROLLOUT, torch.Generator().manual_seed(0))
    return (
        policy,
        rollout,
        make_experience(policy, tiny.frozen_copy(), rollout, scores_of(rollout), config, ROLLOUT.temperature),
    )


def test_kl_is_zero_and_logprobs_are_those_of_sampling(tiny: LanguageModel) -> None:
    _, rollout, experience = made(tiny, PPOConfig(batch_size=4, minibatch_size=2))
    assert experience.kl.abs().max() <= 1e-5
    assert torch.allclose(experience.logprobs, rollout.logprobs, atol=1e-4)
    assert (experience.values == 0).all()


def test_the_ratio_is_one_at_the_first_minibatch(tiny: LanguageModel) -> None:
    """With a learning rate of next to nothing every minibatch is a first one."""
    config = PPOConfig(batch_size=4, minibatch_size=2, lr=1e-30, value_lr=1e-30)
    policy, _, experience = made(tiny, config)
    metrics = update(policy, make_optimizer(policy, config), experience, config, ROLLOUT.temperature, torch.Generator())
    assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/approxkl"] == pytest.approx(0, abs=1e-9)
    assert metrics["policy/clipfrac"] == 0


def test_the_whole_score_reaches_the_response_once(tiny: LanguageModel) -> None:
    """Before training KL is 0 and values are 0: rewards sum to the score, and so does each first return at lambda 1."""
    config = PPOConfig(batch_size=4, minibatch_size=4, gae_lambda=1.0, whiten_advantages=False)
    _, rollout, experience = made(tiny, config)
    expected = torch.tensor(scores_of(rollout).total)
    assert torch.allclose(experience.rewards.sum(-1), expected, atol=1e-3)
    assert torch.allclose(experience.returns[:, 0], expected, atol=1e-3)


def test_scores_are_scaled_clipped_and_fined() -> None:
    scores = Scores(total=[10.0, -30.0, 4.0], components={}, weights={})
    config = PPOConfig(score_scale=5, score_clip=3, missing_eos_penalty=0.5)
    assert scaled_scores(scores, torch.tensor([True, True, False]), config).tolist() == pytest.approx([2.0, -3.0, 0.8 - 0.5])


def test_an_update_raises_the_probability_of_what_was_better(tiny: LanguageModel) -> None:
    config = PPOConfig(batch_size=4, minibatch_size=4, epochs=3, lr=1e-4)
    policy, rollout, experience = made(tiny, config)
    update(policy, make_optimizer(policy, config), experience, config, ROLLOUT.temperature, torch.Generator().manual_seed(0))
    after = make_experience(policy, tiny.frozen_copy(), rollout, scores_of(rollout), config, ROLLOUT.temperature)
    gain = ((after.logprobs - experience.logprobs) * experience.advantages).sum()
    assert gain > 0
    assert all(torch.isfinite(getattr(after, item.name)).all() for item in fields(after))


def test_the_reference_never_moves(tiny: LanguageModel) -> None:
    reference = tiny.frozen_copy()
    before = {name: value.clone() for name, value in reference.model.state_dict().items()}
    config = PPOConfig(batch_size=4, minibatch_size=2, lr=1e-3)
    policy, _, experience = made(tiny, config)
    update(policy, make_optimizer(policy, config), experience, config, 1.0, torch.Generator().manual_seed(0))
    after = reference.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(value, before[name]) for name, value in tiny.model.state_dict().items())


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(tiny: LanguageModel) -> None:
    config = PPOConfig(batch_size=4, minibatch_size=2, epochs=1)
    policy, _, experience = made(tiny, config)
    experience.advantages[0, 0] = float("nan")
    metrics = update(policy, make_optimizer(policy, config), experience, config, 1.0, torch.Generator().manual_seed(0))
    assert metrics["policy/skipped_updates"] == 1
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())

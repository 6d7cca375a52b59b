"""What must hold before the first optimiser step, and after it, on the real tiny model in fp32, for every way to train it."""

import math
from dataclasses import dataclass, fields

import pytest
import torch

from llmrl.config import KLEstimator, KLPlace, PPOConfig, RolloutConfig, ValueHead
from llmrl.errors import RunError, UserError
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy, token_statistics
from llmrl.models.trainable import add_adapters, freeze_trunk, merged, train_all
from llmrl.ppo.experience import Experience, make_experience
from llmrl.ppo.update import SkippedUpdates, accumulate, make_optimizer, update
from llmrl.prompts import Prompt
from llmrl.rollout import Distribution, Rollout, sample

PROMPTS = [Prompt(text, id=text) for text in ("Once", "The old clockmaker opened the door and", "Rain falls when", "I like")]

VARIANTS = {
    "all weights": PPOConfig(batch_size=4, minibatch_size=2),
    "frozen trunk": PPOConfig(batch_size=4, minibatch_size=2, frozen_layers=4),
    "adapters": PPOConfig(batch_size=4, minibatch_size=2, lora_rank=4),
    "micro-batches": PPOConfig(batch_size=4, minibatch_size=4, micro_batch_size=1),
    "checkpointed": PPOConfig(batch_size=4, minibatch_size=2, gradient_checkpointing=True, value_head=ValueHead.mlp),
}


@dataclass
class Setting:
    config: PPOConfig
    rollout_config: RolloutConfig
    language_model: LanguageModel
    reference: LanguageModel
    policy: Policy
    rollout: Rollout
    scores: list[float]

    @property
    def distribution(self) -> Distribution:
        return Distribution.of(self.language_model, self.rollout_config)

    def experience(self) -> Experience:
        return make_experience(
            self.policy, self.reference, self.rollout, self.scores, self.config, self.distribution, self.config.kl_coef
        )

    def update(self, experience: Experience, optimizer: torch.optim.Optimizer | None = None, **changes) -> dict[str, float]:
        config = PPOConfig(**{item.name: getattr(self.config, item.name) for item in fields(PPOConfig)} | changes)
        optimizer = optimizer or make_optimizer(self.policy, config)
        skipped = changes.pop("skipped", SkippedUpdates(limit=config.max_skipped_updates))
        generator = torch.Generator().manual_seed(0)
        return update(self.policy, optimizer, experience, config, self.distribution, config.kl_coef, generator, skipped)


def setting(tiny: LanguageModel, config: PPOConfig, **rollout: float) -> Setting:
    if config.lora_rank:
        reference = add_adapters(tiny, config.lora_rank, config.lora_alpha, config.lora_targets)
    elif config.frozen_layers:
        reference = freeze_trunk(tiny, config.frozen_layers)
    else:
        reference = train_all(tiny)
    rollout_config = RolloutConfig(**{"max_new_tokens": 10, "temperature": 0.8} | rollout)
    made = sample(tiny, PROMPTS, rollout_config, torch.Generator().manual_seed(0))
    scores = [float(text.count("e")) for text in made.texts]
    return Setting(config, rollout_config, tiny, reference, Policy(tiny, config.value_head), made, scores)


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, tiny: LanguageModel) -> Setting:
    return setting(tiny, VARIANTS[request.param])


@pytest.mark.parametrize("least", [0, 6])
def test_kl_is_zero_and_logprobs_are_those_of_sampling(variant: Setting, least: int) -> None:
    variant.rollout_config = RolloutConfig(max_new_tokens=10, temperature=0.8, min_new_tokens=least)
    model, generator = variant.language_model, torch.Generator().manual_seed(0)
    variant.rollout = sample(model, PROMPTS, variant.rollout_config, generator)
    experience = variant.experience()
    assert experience.kl.abs().max() <= 1e-5
    assert torch.allclose(experience.logprobs, variant.rollout.logprobs, atol=1e-4)
    assert (experience.values == 0).all()


def test_the_ratio_is_one_at_the_first_minibatch(variant: Setting) -> None:
    """With a learning rate of next to nothing every minibatch is a first one."""
    metrics = variant.update(variant.experience(), lr=1e-30, value_lr=1e-30)
    assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/approxkl"] == pytest.approx(0, abs=1e-9)
    assert metrics["policy/clipfrac"] == 0


def test_the_reference_never_moves_and_the_policy_does(variant: Setting) -> None:
    """Neither do the weights that are frozen; and the policy's KL to the reference is then above zero."""
    frozen = {name: p.clone() for name, p in variant.policy.model.named_parameters() if not p.requires_grad}
    before = variant.experience()
    variant.update(before, lr=1e-3)
    after = variant.experience()
    assert torch.equal(before.reference_logprobs, after.reference_logprobs)
    assert not torch.allclose(before.logprobs, after.logprobs, atol=1e-3)
    now = dict(variant.policy.model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())
    assert all(torch.isfinite(getattr(after, item.name)).all() for item in fields(after) if item.name != "lower")


def test_an_update_raises_the_probability_of_what_was_better(variant: Setting) -> None:
    before = variant.experience()
    variant.update(before, lr=1e-3 if variant.config.lora_rank else 1e-4, epochs=3)
    assert ((variant.experience().logprobs - before.logprobs) * before.advantages).sum() > 0


def test_a_merged_model_is_the_trained_one(variant: Setting) -> None:
    variant.update(variant.experience(), lr=1e-3)
    trained = variant.experience()
    names = variant.language_model.model.state_dict().keys() - merged(variant.language_model).model.state_dict().keys()
    assert all("lora" in name or "base_layer" in name for name in names)
    plain = Policy(merged(variant.language_model), variant.config.value_head)
    plain.value_head = variant.policy.value_head
    variant.policy = plain
    assert torch.allclose(variant.experience().logprobs, trained.logprobs, atol=1e-4)


def test_the_whole_score_reaches_the_response_once(tiny: LanguageModel) -> None:
    """Before training KL is 0 and values are 0: rewards sum to the score, and so does each first return at lambda 1."""
    made = setting(tiny, PPOConfig(batch_size=4, minibatch_size=4, gae_lambda=1.0, whiten_advantages=False))
    experience = made.experience()
    assert torch.allclose(experience.rewards.sum(-1), torch.tensor(made.scores), atol=1e-3)
    assert torch.allclose(experience.returns[:, 0], torch.tensor(made.scores), atol=1e-3)


def test_the_kl_stands_in_the_reward_or_in_the_loss(tiny: LanguageModel) -> None:
    """With the coefficient at 0 and at 1: one of the two moves, the other does not."""
    made = setting(tiny, PPOConfig(batch_size=4, minibatch_size=4))
    made.update(made.experience(), lr=1e-3)  # so that the KL is not 0
    for place, estimator in ((KLPlace.reward, KLEstimator.k1), (KLPlace.loss, KLEstimator.k2)):
        rewards, losses = [], []
        for coef in (0.0, 1.0):
            made.config = PPOConfig(batch_size=4, minibatch_size=4, kl_coef=coef, kl_place=place, kl_estimator=estimator)
            experience = made.experience()
            rewards.append(experience.rewards.sum())
            experience.advantages[:] = 0
            experience.returns[:] = experience.values
            losses.append(accumulate(made.policy, experience, made.config, made.distribution, coef)["loss"])
            kl = (experience.logprobs - experience.reference_logprobs).sum()
        in_reward = place is KLPlace.reward
        assert (rewards[0] - rewards[1]).item() == pytest.approx(kl.item() if in_reward else 0, abs=1e-3)
        squares = (experience.logprobs - experience.reference_logprobs).square() / 2
        mean = squares.sum() / experience.response_mask.sum()
        assert losses[1] - losses[0] == pytest.approx(0 if in_reward else mean.item(), abs=1e-4)


def test_rewards_are_whitened_with_their_mean_kept(tiny: LanguageModel) -> None:
    made = setting(tiny, PPOConfig(batch_size=4, minibatch_size=4))
    plain = made.experience()
    made.config = PPOConfig(batch_size=4, minibatch_size=4, whiten_rewards=True)
    whitened = made.experience()
    real = plain.response_mask.bool()
    values = plain.rewards[real].double()
    expected = (values - values.mean()) / values.std(correction=0) + values.mean()
    assert torch.allclose(whitened.rewards[real].double(), expected, atol=1e-4)
    assert (whitened.rewards[~real] == 0).all()


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changes", [{"micro_batch_size": 1}, {"micro_batch_size": 2}, {"gradient_checkpointing": True}])
@pytest.mark.parametrize("place", [KLPlace.reward, KLPlace.loss])
def test_saving_memory_changes_no_gradient(tiny: LanguageModel, changes: dict, place: KLPlace) -> None:
    """Responses of unequal lengths: the mean of the micro-batches' means would not do."""
    estimator = KLEstimator.k2 if place is KLPlace.loss else KLEstimator.k1
    base = {"batch_size": 4, "minibatch_size": 4, "kl_place": place, "kl_estimator": estimator, "entropy_coef": 0.01}
    made = setting(tiny, PPOConfig(**base))
    made.rollout.response_mask[0, 2:] = 0
    made.rollout.attention_mask[0, -8:] = 0
    experience = made.experience()
    experience.reference_logprobs += 0.3  # so that the KL term has a gradient
    found = []
    for config in (PPOConfig(**base), PPOConfig(**base, **changes)):
        made.policy.zero_grad()
        figures = accumulate(made.policy, experience, config, made.distribution, 0.1)
        found.append((figures, gradients(made.policy)))
    (figures, whole), (other_figures, parts) = found
    assert whole.keys() == parts.keys()
    scale = max(float(gradient.abs().max()) for gradient in whole.values())
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5 * scale) for name in whole)
    assert figures == pytest.approx(other_figures, abs=1e-5)


@pytest.mark.parametrize("place", ["plain path", "adapters"])
def test_layers_computed_again_give_the_same_gradient_without_the_engine(
    tiny: LanguageModel, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "plain path":
        monkeypatch.setattr(LanguageModel, "engine", property(lambda _: None))
    rank = 4 if place == "adapters" else 0
    made = setting(tiny, PPOConfig(batch_size=4, minibatch_size=4, lora_rank=rank))
    assert tiny.engine is None
    made.update(made.experience(), lr=1e-3, epochs=1)  # adapters begin at zero, where half of their gradient is, too
    experience, found = made.experience(), []
    experience.advantages += 0.3
    for again in (False, True):
        made.policy.zero_grad()
        config = PPOConfig(batch_size=4, minibatch_size=4, lora_rank=rank, gradient_checkpointing=again)
        accumulate(made.policy, experience, config, made.distribution, 0.0)
        found.append(gradients(made.policy))
    assert found[0].keys() == found[1].keys()
    scale = max(float(gradient.abs().max()) for gradient in found[0].values())
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5 * scale) for name in found[0])


def test_left_padding_changes_nothing_however_the_model_is_trained(variant: Setting) -> None:
    """Each row alone, without its padding, against the batch; after an update, so that policy and reference differ."""
    variant.update(variant.experience(), lr=1e-3)
    rollout, distribution = variant.rollout, variant.distribution
    together = variant.policy.statistics(rollout.tokens, rollout.attention_mask, rollout.response_mask, distribution)
    base = token_statistics(variant.reference, rollout.tokens, rollout.attention_mask, rollout.response_mask, distribution)
    assert not torch.allclose(together.logprobs, base.logprobs, atol=1e-3)
    for row in range(len(PROMPTS)):
        first = int(rollout.attention_mask[row].argmax())
        alone = (rollout.tokens[row : row + 1, first:], rollout.attention_mask[row : row + 1, first:])
        asked = rollout.response_mask[row : row + 1]
        for whole, part in (
            (together, variant.policy.statistics(*alone, asked, distribution)),
            (base, token_statistics(variant.reference, *alone, asked, distribution)),
        ):
            assert torch.allclose(whole.logprobs[row], part.logprobs[0], atol=1e-4)
            if part.values is not None:
                assert torch.allclose(whole.values[row], part.values[0], atol=1e-4)


def test_the_value_head_has_a_learning_rate_of_its_own(tiny: LanguageModel) -> None:
    for lr, value_lr, moves in ((1e-30, 1e-3, "head"), (1e-3, 1e-30, "model")):
        made = setting(tiny, PPOConfig(batch_size=4, minibatch_size=4))
        weights = {"model": made.policy.model.parameters(), "head": made.policy.value_head.parameters()}
        before = {name: [each.clone() for each in found] for name, found in weights.items()}
        made.update(made.experience(), lr=lr, value_lr=value_lr, epochs=1)
        after = {"model": made.policy.model.parameters(), "head": made.policy.value_head.parameters()}
        for name, found in after.items():
            changed = max(float((new - old).detach().abs().max()) for new, old in zip(found, before[name], strict=True))
            assert (changed > 1e-5) == (name == moves), (name, changed)


def test_only_what_is_trained_gets_a_gradient(tiny: LanguageModel) -> None:
    made = setting(tiny, PPOConfig(batch_size=4, minibatch_size=4, frozen_layers=4, gradient_checkpointing=True))
    accumulate(made.policy, made.experience(), made.config, made.distribution, 0.0)
    named = gradients(made.policy)
    assert {name.split(".")[3] for name in named if ".h." in name} == {"4"}
    assert not any("wte" in name or "wpe" in name or "lm_head" in name for name in named)
    shared = {id(p) for p in made.policy.model.parameters()} & {id(p) for p in made.reference.model.parameters()}
    assert sum(p.numel() for p in made.reference.model.parameters() if id(p) in shared) > 6_000_000  # of 7.6 million


def test_too_many_frozen_layers_are_refused(tiny: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"ppo.frozen_layers=5 would leave nothing to train: .* has 5 layers"):
        freeze_trunk(tiny, 5)


def test_an_update_ends_where_the_policy_has_gone_too_far(tiny: LanguageModel) -> None:
    made = setting(tiny, PPOConfig(batch_size=4, minibatch_size=2))
    experience = made.experience()
    metrics = made.update(experience, lr=1e-3, epochs=4, stop_update_kl=1e-3)
    assert 1 <= metrics["policy/updates"] < 8
    assert metrics["policy/approxkl"] <= 1e-3
    assert made.update(experience, lr=1e-3, epochs=4)["policy/updates"] == 8


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(tiny: LanguageModel) -> None:
    made = setting(tiny, PPOConfig(batch_size=4, minibatch_size=2, epochs=1))
    experience = made.experience()
    experience.advantages[0, 0] = float("nan")
    metrics = made.update(experience)
    assert (metrics["policy/skipped_updates"], metrics["policy/updates"]) == (1, 1)
    assert all(torch.isfinite(parameter).all() for parameter in made.policy.parameters())
    assert all(map(math.isfinite, metrics.values()))


def test_too_many_skipped_steps_in_a_row_end_the_run(tiny: LanguageModel) -> None:
    made = setting(tiny, PPOConfig(batch_size=4, minibatch_size=2, epochs=3, max_skipped_updates=5))
    experience = made.experience()
    before = [p.clone() for p in made.policy.parameters()]
    experience.advantages[:] = float("nan")
    with pytest.raises(RunError, match="6 optimiser steps in a row"):
        made.update(experience)
    assert all(torch.equal(old, new) for old, new in zip(before, made.policy.parameters(), strict=True))

"""Epochs of minibatches: new log-probabilities and values, clipped losses, optimiser steps."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmrl.config import KLPlace, PPOConfig, Schedule
from llmrl.errors import RunError
from llmrl.models.policy import Policy
from llmrl.ppo.experience import Experience
from llmrl.ppo.losses import explained_variance, kl_estimate, policy_loss, value_loss
from llmrl.ppo.optimizer import AdamW
from llmrl.rollout import Distribution


def make_optimizer(policy: Policy, config: PPOConfig) -> AdamW:
    """AdamW over what is trained, with a learning rate for the language model and one for the value head."""
    language_model = [p for p in policy.model.parameters() if p.requires_grad]
    return AdamW(
        [
            {"params": language_model, "lr": config.lr, "initial_lr": config.lr},
            {"params": list(policy.value_head.parameters()), "lr": config.value_lr, "initial_lr": config.value_lr},
        ],
        policy.weights_of,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )


def learning_rate_factor(step: int, steps: int, config: PPOConfig) -> float:
    """What the learning rates are multiplied by in step `step` (from 0) of `steps`: it rises linearly, then falls to 0.

    The last step still learns: a schedule over n steps reaches 0 after the last of them, as in lm-human-preferences.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / (steps - config.warmup_steps)
    if config.lr_schedule is Schedule.constant:
        return 1.0
    return 1 - done if config.lr_schedule is Schedule.linear else 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class SkippedUpdates:
    """Optimiser steps in a row that were lost to a loss or gradient that is not finite; a good one ends the row."""

    row: int = 0
    limit: int = 20

    def count(self, finite: bool) -> bool:
        """Whether the step may be made. Raises RunError when the row grows past the limit."""
        self.row = 0 if finite else self.row + 1
        if self.row > self.limit:
            raise RunError(
                f"{self.row} optimiser steps in a row had a loss or gradient that is not finite and were left out "
                "(ppo.max_skipped_updates): try a lower ppo.lr, or model.precision=fp32; the last good weights are saved"
            )
        return finite


def update(
    policy: Policy,
    optimizer: AdamW,
    experience: Experience,
    config: PPOConfig,
    distribution: Distribution,
    kl_coef: float,
    generator: torch.Generator,
    skipped: SkippedUpdates,
    ratios: list[Tensor] | None = None,
) -> dict[str, float]:
    """Learn from one batch. Returns the means over its optimiser steps of what the field calls policy/* and val/* metrics.

    A minibatch with a loss or gradient that is not finite is left out and counted in `policy/skipped_updates`; RunError when
    `skipped` says there were too many. The probability ratio of every token of the last epoch is added to `ratios`, if given.
    With `stop_update_kl` the update ends before the first step that would start too far
    from the policy that sampled.
    """
    sums: dict[str, float] = defaultdict(float)
    taken, left_out = 0, 0
    batches = minibatches(len(experience.tokens), config, generator)
    for number, index in enumerate(batches):
        optimizer.zero_grad()
        rows = experience.rows(index.to(experience.tokens.device))
        last_epoch = number >= len(batches) - len(batches) // config.epochs
        figures = accumulate(policy, rows, config, distribution, kl_coef, ratios if last_epoch else None)
        if config.stop_update_kl is not None and figures["policy/approxkl"] > config.stop_update_kl:
            break
        figures["policy/grad_norm"] = optimizer.clip_gradients(config.max_grad_norm)
        if not skipped.count(all(map(math.isfinite, figures.values()))):
            left_out += 1
            continue
        optimizer.step()
        taken += 1
        for name, value in figures.items():
            sums[name] += value
    optimizer.zero_grad()
    metrics = {name: total / taken for name, total in sums.items()}
    metrics["policy/updates"] = float(taken)
    metrics["policy/skipped_updates"] = float(left_out)
    metrics["val/var_explained"] = float(explained_variance(experience.values, experience.returns, experience.response_mask))
    return metrics


def minibatches(rows: int, config: PPOConfig, generator: torch.Generator) -> list[Tensor]:
    """Indices of the rows of every minibatch of every epoch, each epoch in a fresh order."""
    return [
        index
        for _ in range(config.epochs)
        for index in torch.randperm(rows, generator=generator).split(config.minibatch_size)
    ]  # fmt: skip


def accumulate(
    policy: Policy,
    minibatch: Experience,
    config: PPOConfig,
    distribution: Distribution,
    kl_coef: float,
    ratios: list[Tensor] | None = None,
) -> dict[str, float]:
    """Add the gradient of the minibatch's loss to the parameters, a micro-batch at a time. Returns the loss's figures.

    Every mean is over the tokens of the whole minibatch, so that micro-batches of unequal lengths add up to the same gradient.
    """
    rows = len(minibatch.tokens)
    tokens = minibatch.response_mask.sum()
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=tokens.device))
    for index in torch.arange(rows, device=minibatch.tokens.device).split(config.micro_batch_size or rows):
        part = minibatch.rows(index)

        def share_of_loss(where: Tensor, *figures: Any, part: Experience = part) -> Tensor:
            share = len(where) / tokens
            if ratios is not None:
                ratios.append((figures[0].detach() - part.logprobs.flatten()[where]).exp())
            loss, found = token_loss(part, where, *figures, config=config, kl_coef=kl_coef)
            for name, value in found.items():
                sums[name] = sums[name] + value.detach() * share
            return loss * share

        policy.backward(
            part.tokens, part.attention_mask, part.response_mask, distribution, share_of_loss, lower=part.lower,
            with_entropy=config.entropy_coef > 0, recompute=config.gradient_checkpointing,
        )  # fmt: skip
    return dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))  # one wait for the device, not eight


def token_loss(
    part: Experience,
    where: Tensor,
    logprobs: Tensor,
    entropies: Tensor | None,
    values: Tensor,
    config: PPOConfig,
    kl_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(differentiable mean loss over some tokens, figures): clipped policy and value losses, KL and entropy terms if used.

    `where` [m] are the tokens' places in the [b * t] of `part`; log-probabilities, entropies and values [m] are those of now.
    """
    old, old_values, advantages, returns, reference = (
        each.flatten()[where] for each in (part.logprobs, part.values, part.advantages, part.returns, part.reference_logprobs)
    )
    mask = torch.ones_like(old)
    pi = policy_loss(logprobs, old, advantages, mask, config.clip_range)
    vf = value_loss(values, old_values, returns, mask, config.value_clip_range)
    loss = pi.loss + config.vf_coef * vf.loss
    figures = {
        "policy/loss": pi.loss, "policy/approxkl": pi.approx_kl, "policy/clipfrac": pi.clipfrac, "policy/ratio": pi.ratio,
        "val/loss": vf.loss, "val/clipfrac": vf.clipfrac, "val/error": vf.error,
    }  # fmt: skip
    if config.kl_place is KLPlace.loss:
        kl = kl_estimate(logprobs, reference, config.kl_estimator).mean()
        loss = loss + kl_coef * kl
        figures["policy/kl_loss"] = kl
    if entropies is not None:
        loss = loss - config.entropy_coef * entropies.mean()
    return loss, figures | {"loss": loss}

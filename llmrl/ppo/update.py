"""Epochs of minibatches: new log-probabilities and values, clipped losses, optimiser steps."""

from collections import defaultdict

import torch
from torch import Tensor, nn

from llmrl.config import PPOConfig
from llmrl.models.policy import Policy
from llmrl.ppo.experience import Experience
from llmrl.ppo.losses import entropy, explained_variance, policy_loss, value_loss
from llmrl.ppo.masked import masked_mean
from llmrl.rollout import token_logprobs


def make_optimizer(policy: Policy, config: PPOConfig) -> torch.optim.AdamW:
    """AdamW with a learning rate for the language model and one for the value head."""
    language_model = [p for p in policy.model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": language_model, "lr": config.lr, "initial_lr": config.lr},
            {"params": list(policy.value_head.parameters()), "lr": config.value_lr, "initial_lr": config.value_lr},
        ],
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    config: PPOConfig,
    temperature: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Learn from one batch. Returns the means over all minibatches of what the field calls policy/* and val/* metrics.

    A minibatch with a loss or gradient that is not finite is skipped and counted in `policy/skipped_updates`.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sums: dict[str, Tensor | float] = defaultdict(float)
    rows, length = len(experience.tokens), experience.response_mask.shape[1]
    minibatches, skipped = 0, 0
    for _ in range(config.epochs):
        for index in torch.randperm(rows, generator=generator).split(config.minibatch_size):
            part = experience.rows(index.to(experience.tokens.device))
            outputs = policy(part.tokens, part.attention_mask, length)
            logprobs = token_logprobs(outputs.logits, part.tokens[:, -length:], temperature)
            pi = policy_loss(logprobs, part.logprobs, part.advantages, part.response_mask, config.clip_range)
            vf = value_loss(outputs.values, part.values, part.returns, part.response_mask, config.value_clip_range)
            loss = pi.loss + config.vf_coef * vf.loss
            if config.entropy_coef:
                bonus = masked_mean(entropy(outputs.logits.float() / temperature), part.response_mask)
                loss = loss - config.entropy_coef * bonus
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            minibatches += 1
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                skipped += 1
                continue
            optimizer.step()
            figures = {
                "policy/loss": pi.loss, "policy/approxkl": pi.approx_kl, "policy/clipfrac": pi.clipfrac,
                "policy/ratio": pi.ratio, "policy/grad_norm": norm,
                "val/loss": vf.loss, "val/clipfrac": vf.clipfrac, "val/error": vf.error,
            }  # fmt: skip
            for name, value in figures.items():
                sums[name] += value.detach()
    optimizer.zero_grad(set_to_none=True)
    metrics = {name: float(total) / (minibatches - skipped) for name, total in sums.items()}
    metrics["policy/skipped_updates"] = float(skipped)
    metrics["val/var_explained"] = float(explained_variance(experience.values, experience.returns, experience.response_mask))
    return metrics

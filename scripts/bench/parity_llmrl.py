"""llmrl's half of parity.py, and the only place of it that calls `llmrl.ppo`.

A variant is llmrl as it stands, or with a convention of TRL's applied to it from outside: nothing in llmrl is switched.
Legend: B responses of at most T tokens to prompts of at most P; tensors are [B, T], 0 on padding.
"""

import json
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import torch
from parity_cases import load_fp32
from safetensors.torch import load_file
from torch import Tensor

from llmrl.config import PPOConfig
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy
from llmrl.ppo.experience import Experience, make_experience
from llmrl.ppo.losses import policy_loss, value_loss
from llmrl.ppo.masked import masked_mean, masked_var
from llmrl.ppo.trainer import objective_metrics
from llmrl.ppo.update import SkippedUpdates, make_optimizer, update
from llmrl.prompts import Prompt
from llmrl.rewards import Scores
from llmrl.rollout import Distribution, Rollout


@dataclass(frozen=True)
class Variant:
    """Which of TRL's conventions are applied."""

    unbiased_whitening: bool = False  # the variance of advantages with Bessel's correction
    counting_padding: bool = False  # positions count the padding to the left of a row
    clipping_once: bool = False  # gradients are clipped at the first optimiser step alone


class Bench:
    """Policy, reference and batch of one case, read anew for every measurement."""

    def __init__(self, folder: Path, variant: Variant) -> None:
        inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
        self.variant = variant
        self.tensors = load_file(folder / "inputs.safetensors")
        self.settings: dict[str, Any] = inputs["settings"]
        self.policy = Policy(load_fp32(str(folder / "policy")))
        self.reference = load_fp32(str(folder / "reference"))
        head = {"weight": self.tensors["value_head.weight"], "bias": self.tensors["value_head.bias"]}
        self.policy.value_head.layers[-1].load_state_dict(head)
        self.rollout = make_rollout(inputs["prompts"], inputs["responses"], self.policy.language_model)
        self.scores = Scores(inputs["scores"], {"fixed": inputs["scores"]}, {"fixed": 1.0})
        rows = len(inputs["prompts"])
        own = {name: value for name, value in self.settings.items() if name != "epochs"}
        self.config = PPOConfig(
            **own, value_lr=own["lr"], batch_size=rows, minibatch_size=rows, epochs=1, whiten_advantages=True
        )

    def experience(self) -> Experience:
        """The batch as llmrl sees it, whitened as the variant says."""
        made = make_experience(
            self.policy, self.reference, self.rollout, self.scores.total, self.config, Distribution(), self.config.kl_coef
        )
        if self.variant.unbiased_whitening:
            count = made.response_mask.sum()
            made.advantages = made.advantages * ((count - 1) / count).sqrt()
        return made

    def update(self, optimizer: torch.optim.Optimizer, experience: Experience, config: PPOConfig) -> dict[str, float]:
        return update(
            self.policy, optimizer, experience, config, Distribution(), config.kl_coef, torch.Generator().manual_seed(0),
            SkippedUpdates(),
        )  # fmt: skip

    def positions(self) -> AbstractContextManager[object]:
        """Inside, positions are those of the variant."""
        stack = ExitStack()
        if self.variant.counting_padding:
            for model in (self.policy.model, self.reference.model):
                stack.callback(model.register_forward_pre_hook(self._shift_positions, with_kwargs=True).remove)
        return stack

    def _shift_positions(self, _: object, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        """A row begins after as many places as it is shorter than the longest; rows are told by their tokens."""
        tokens, lengths = options["input_ids"], self.rollout.attention_mask.sum(-1)
        known = self.rollout.tokens[:, : tokens.shape[1]]
        rows = (tokens[:, None] == known[None]).all(-1).long().argmax(-1)
        shift = (lengths.max() - lengths)[rows].unsqueeze(-1)
        return arguments, options | {"position_ids": options["position_ids"] + shift}


def make_rollout(prompts: list[list[int]], responses: list[list[int]], language_model: LanguageModel) -> Rollout:
    """Fixed tokens laid out as the sampler does: prompts padded left, responses right."""
    width, length = max(map(len, prompts)), max(map(len, responses))
    tokens = torch.full((len(prompts), width + length), language_model.pad_id)
    mask = torch.zeros_like(tokens)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        real = slice(width - len(prompt), width + len(response))
        tokens[row, real] = torch.tensor(prompt + response)
        mask[row, real] = 1
    return Rollout(
        tokens=tokens,
        attention_mask=mask,
        response_mask=mask[:, width:],
        logprobs=torch.zeros(len(prompts), length),  # the sampler's: llmrl computes its own before it learns
        finished=torch.tensor([response[-1] in language_model.stop_ids for response in responses]),
        prompts=[Prompt("", id=str(row)) for row in range(len(prompts))],
        texts=[""] * len(prompts),
    )


def passes(folder: Path, variant: Variant) -> dict[str, Tensor]:
    """Forward passes, rewards, advantages and losses, without a step."""
    bench = Bench(folder, variant)
    with bench.positions():
        made = bench.experience()
    mask, config = made.response_mask, bench.config
    names = ("logprobs", "reference_logprobs", "values", "kl", "rewards", "advantages", "returns")
    found = {name: getattr(made, name) for name in names} | {"entropy": masked_mean(made.entropies, mask)}
    for prefix, size in {"": 0.0, "moved.": 1.0}.items():
        logprobs = made.logprobs + size * bench.tensors["shift.logprobs"]
        values = made.values + size * bench.tensors["shift.values"]
        pi = policy_loss(logprobs, made.logprobs, made.advantages, mask, config.clip_range)
        vf = value_loss(values, made.values, made.returns, mask, config.value_clip_range)
        found |= {
            f"{prefix}policy_loss": pi.loss, f"{prefix}policy_clipfrac": pi.clipfrac, f"{prefix}approx_kl": pi.approx_kl,
            f"{prefix}value_loss": vf.loss, f"{prefix}value_clipfrac": vf.clipfrac,
        }  # fmt: skip
    return found


@torch.no_grad()
def alone(folder: Path) -> dict[str, Tensor]:
    """Log-probabilities by plain transformers, each row a batch of its own with nothing to pad: what both should find."""
    inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    model = load_fp32(str(folder / "policy")).model
    logprobs = torch.zeros(len(inputs["prompts"]), max(map(len, inputs["responses"])))
    for row, (prompt, response) in enumerate(zip(inputs["prompts"], inputs["responses"], strict=True)):
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logprobs[row, : len(response)] = logits.log_softmax(-1).gather(-1, torch.tensor(response).unsqueeze(-1)).squeeze(-1)
    return {"logprobs": logprobs}


def own_weights(policy: Policy) -> dict[str, Tensor]:
    """Every trained tensor, by the name it has in the language model."""
    return {
        name.removeprefix("model.").replace("value_head.layers.0.", "value_head."): weight
        for name, weight in policy.named_parameters()
    }


def learn(folder: Path, variant: Variant, epochs: int) -> dict[str, Tensor]:
    """`epochs` optimiser steps on the batch: what the optimiser was given and did, and the metrics that are logged."""
    bench = Bench(folder, variant)
    optimizer, weights = make_optimizer(bench.policy, bench.config), own_weights(bench.policy)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    first: dict[str, Tensor] = {}
    norms: list[Tensor] = []

    def look(*_: object) -> None:
        gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        norms.append(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
        if not first:
            first.update({f"gradient.{name}": gradient.clone() for name, gradient in gradients.items()})

    optimizer.register_step_pre_hook(look)
    configs = [bench.config] * epochs
    if variant.clipping_once:
        configs[1:] = [with_changes(bench.config, max_grad_norm=1e9)] * (epochs - 1)
    with bench.positions():
        made = bench.experience()
        metrics = [bench.update(optimizer, made, config) for config in configs]
    lr = bench.settings["lr"]
    return (
        first
        | {f"change.{name}": (weight.detach() - before[name]) / lr for name, weight in weights.items()}
        | {"grad_norms": torch.stack(norms)}
        | logged(bench, made, metrics)
    )


def logged(bench: Bench, made: Experience, metrics: list[dict[str, float]]) -> dict[str, Tensor]:
    """Metrics as llmrl logs them, the mean over steps; and two of TRL's, worked out by its definitions from llmrl's tensors."""
    mask = made.response_mask
    names = {
        "policy_loss": "policy/loss", "value_loss": "val/loss", "policy_clipfrac": "policy/clipfrac",
        "value_clipfrac": "val/clipfrac", "approx_kl": "policy/approxkl", "explained_variance": "val/var_explained",
    }  # fmt: skip
    objective = objective_metrics(bench.rollout, bench.scores, made)
    error = masked_mean((made.values - made.returns).square(), mask)
    variance = masked_var(made.returns, mask) * mask.sum() / (mask.sum() - 1)
    return {name: torch.tensor([each[own] for each in metrics]).mean() for name, own in names.items()} | {
        "objective_kl": torch.tensor(objective["objective/kl"]),
        "objective_entropy": torch.tensor(objective["objective/entropy"]),
        "explained_variance_of_trl": 1 - error / variance,
        "objective_entropy_of_trl": -made.logprobs.sum(-1).mean(),
    }


def measure(folder: Path, variant: Variant) -> dict[str, Tensor]:
    """All quantities of one variant, named as `parity_trl.py` names them."""
    several = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))["settings"]["epochs"]
    found = passes(folder, variant)
    for name, epochs in {"one": 1, "several": several}.items():
        found |= {f"{name}.{key}": value for key, value in learn(folder, variant, epochs).items()}
    return {name: value.detach().float() for name, value in found.items()}

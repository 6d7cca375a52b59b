"""TRL's half of parity.py: the classic PPOTrainer of TRL 0.11.3 on a batch of fixed numbers.

    PEER_PYTHON scripts/bench/parity_trl.py FOLDER

Run by the interpreter of the peer's environment, which has no llmrl. Reads what `parity_cases.py` wrote to FOLDER and writes
trl_right.safetensors and trl_left.safetensors, one for each side of padding. Legend: B responses of at most T tokens, L tokens
in the longest prompt with its response; tensors are [B, T] as in llmrl, 0 on padding.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

HEAD = {"v_head.summary.weight": "value_head.weight", "v_head.summary.bias": "value_head.bias"}


def make_trainer(folder: Path, inputs: dict[str, Any], side: str, epochs: int) -> PPOTrainer:
    """A fresh trainer: the whole batch is one minibatch, the KL coefficient is fixed, Adam is the one llmrl is given."""
    settings, rows = inputs["settings"], len(inputs["prompts"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "policy" / "tokenizer.json"), padding_side=side)
    tokenizer.pad_token = tokenizer.eos_token = "<|endoftext|>"
    model, reference = (
        AutoModelForCausalLMWithValueHead.from_pretrained(str(folder / name), torch_dtype=torch.float32)
        for name in ("policy", "reference")
    )
    tensors = load_file(folder / "inputs.safetensors")
    model.load_state_dict({theirs: tensors[ours] for theirs, ours in HEAD.items()}, strict=False)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=settings["lr"], betas=(settings["adam_beta1"], settings["adam_beta2"]), eps=settings["adam_eps"]
    )
    config = PPOConfig(
        learning_rate=settings["lr"],
        adap_kl_ctrl=False,
        init_kl_coef=settings["kl_coef"],
        gamma=settings["gamma"],
        lam=settings["gae_lambda"],
        cliprange=settings["clip_range"],
        cliprange_value=settings["value_clip_range"],
        vf_coef=settings["vf_coef"],
        max_grad_norm=settings["max_grad_norm"],
        ratio_threshold=float("inf"),  # llmrl has no such guard
        batch_size=rows,
        mini_batch_size=rows,
        ppo_epochs=epochs,
    )
    return PPOTrainer(config=config, model=model, ref_model=reference, tokenizer=tokenizer, optimizer=optimizer)


def to_responses(values: Tensor, masks: Tensor, length: int) -> Tensor:
    """[B, L-1] -> [B, T]: the entries at response tokens, moved to the left; 0 on padding."""
    moved = torch.zeros(len(values), length)
    for row, (value, mask) in enumerate(zip(values, masks.bool(), strict=True)):
        moved[row, : int(mask.sum())] = value[mask]
    return moved


def to_sequences(values: Tensor, masks: Tensor) -> Tensor:
    """[B, T] -> [B, L-1]: the inverse of `to_responses`."""
    moved = torch.zeros(masks.shape)
    for row, (value, mask) in enumerate(zip(values, masks.bool(), strict=True)):
        moved[row, mask] = value[: int(mask.sum())]
    return moved


def passes(trainer: PPOTrainer, folder: Path, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Forward passes, rewards, advantages and losses, without a step."""
    queries, responses = ([torch.tensor(ids) for ids in inputs[name]] for name in ("prompts", "responses"))
    length = max(map(len, responses))
    arguments = trainer.prepare_model_inputs(queries, responses)
    with torch.no_grad():
        logprobs, logits, values, masks = trainer.batched_forward_pass(
            trainer.model, queries, responses, arguments, return_logits=True
        )
        reference_logprobs, _, _, _ = trainer.batched_forward_pass(trainer.ref_model, queries, responses, arguments)
        rewards, _, kl = trainer.compute_rewards(torch.tensor(inputs["scores"]), logprobs, reference_logprobs, masks)
        values, advantages, returns = trainer.compute_advantages(values, rewards, masks)
        policy, value, stats = trainer.loss(logprobs, values, logits, values, logprobs, masks, advantages, returns)
        shifts = load_file(folder / "inputs.safetensors")
        moved_logprobs = logprobs + to_sequences(shifts["shift.logprobs"], masks)
        moved_values = values + to_sequences(shifts["shift.values"], masks)
        moved_policy, moved_value, moved = trainer.loss(
            logprobs, values, logits, moved_values, moved_logprobs, masks, advantages, returns
        )
    tokenwise = {
        "logprobs": logprobs, "reference_logprobs": reference_logprobs, "values": values, "kl": kl, "rewards": rewards,
        "advantages": advantages, "returns": returns,
    }  # fmt: skip
    return {name: to_responses(value, masks, length) for name, value in tokenwise.items()} | {
        "entropy": stats["policy/entropy"],
        "policy_loss": policy,
        "value_loss": value / trainer.config.vf_coef,  # `loss` hands it back weighted
        "moved.policy_loss": moved_policy,
        "moved.value_loss": moved_value / trainer.config.vf_coef,
        "moved.policy_clipfrac": moved["policy/clipfrac"],
        "moved.value_clipfrac": moved["val/clipfrac"],
        "moved.approx_kl": moved["policy/approxkl"],
    }


def own_weights(trainer: PPOTrainer) -> dict[str, Tensor]:
    """Every trained tensor under llmrl's name."""
    return {
        HEAD.get(name, name.removeprefix("pretrained_model.")): parameter
        for name, parameter in trainer.model.named_parameters()
    }


def learn(trainer: PPOTrainer, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """`PPOTrainer.step`: what its optimiser was given and did, and the metrics it logs."""
    weights = own_weights(trainer)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    first: dict[str, Tensor] = {}
    norms: list[Tensor] = []

    def look(*_: object) -> None:
        gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        norms.append(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
        if not first:
            first.update({f"gradient.{name}": gradient.clone() for name, gradient in gradients.items()})

    trainer.optimizer.optimizer.register_step_pre_hook(look)
    queries, responses = ([torch.tensor(ids) for ids in inputs[name]] for name in ("prompts", "responses"))
    stats = trainer.step(queries, responses, [torch.tensor(score) for score in inputs["scores"]])
    lr = inputs["settings"]["lr"]
    logged = {
        "policy_loss": "ppo/loss/policy", "policy_clipfrac": "ppo/policy/clipfrac", "value_clipfrac": "ppo/val/clipfrac",
        "approx_kl": "ppo/policy/approxkl", "explained_variance": "ppo/val/var_explained",
        "objective_kl": "objective/kl", "objective_entropy": "objective/entropy",
    }  # fmt: skip
    return (
        first
        | {f"change.{name}": (weight.detach() - before[name]) / lr for name, weight in weights.items()}
        | {"grad_norms": torch.stack(norms), "value_loss": torch.tensor(float(stats["ppo/loss/value"]))}
        | {name: torch.tensor(float(stats[theirs])) for name, theirs in logged.items()}
    )


def main() -> None:
    warnings.simplefilter("ignore", FutureWarning)  # it is deprecated in its own version
    warnings.filterwarnings("ignore", message="No dataset is provided")
    folder = Path(sys.argv[1])
    inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    several = inputs["settings"]["epochs"]
    for side in ("right", "left"):
        found = passes(make_trainer(folder, inputs, side, 1), folder, inputs)
        for name, epochs in {"one": 1, "several": several}.items():
            learned = learn(make_trainer(folder, inputs, side, epochs), inputs)
            found |= {f"{name}.{key}": value for key, value in learned.items()}
        tensors = {name: value.detach().float().contiguous() for name, value in found.items()}
        save_file(tensors, folder / f"trl_{side}.safetensors")


if __name__ == "__main__":
    main()

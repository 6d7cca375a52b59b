"""The batches that parity.py puts before both sides: two models, fixed tokens, scores and random numbers, in files.

A case is a folder: `policy/` and `reference/` load with plain transformers, `inputs.json` holds token ids, scores and settings,
`inputs.safetensors` the value head and what the losses are tried with.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from llmrl.config import Device, ModelConfig, Precision, RolloutConfig
from llmrl.models.load import LanguageModel, load, save
from llmrl.models.places import cache_folder
from llmrl.prompts import Prompt
from llmrl.rollout import sample

SETTINGS: dict[str, Any] = {
    "lr": 1e-4,  # large enough for four steps to reach the clip ranges
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_eps": 1e-5,
    "max_grad_norm": 0.5,  # below the norms that occur, so that gradients are clipped
    "clip_range": 0.2,
    "value_clip_range": 0.2,
    "vf_coef": 0.1,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "kl_coef": 0.2,
    "epochs": 4,
}
RESPONSE_TOKENS = 16
PROMPTS = {  # prompt, of different lengths: (tokens of its response, whether the last of them ends the text)
    "Once": (16, False),
    "The old clockmaker opened the door and looked out into the rain": (1, True),
    "Rain falls when": (7, True),
    "I like": (16, True),
    "Early in the morning, a traveller found": (12, True),
    "Why is grass green and the sky": (16, False),
    "My favourite season is": (3, True),
    "A long time ago, near a quiet river, there lived a boy": (9, True),
}
SCORES = [1.5, -2.0, 0.25, 3.0, -0.75, 2.0, 0.0, -1.25]  # exact in fp32
PERTURBATION = 0.05  # standard deviation of the noise on a tensor of the reference, in standard deviations of the tensor


@dataclass
class Case:
    """One model, as it stands in the tables."""

    name: str
    title: str


CASES = (
    Case("tiny", "the packaged tiny model: GPT-2, 5 layers, 320 wide, 4,096 tokens, trained"),
    Case("gpt2", "a GPT-2 of 3 layers, 128 wide, 50,257 tokens, random weights, GPT-2's own tokenizer"),
)


def load_fp32(name_or_path: str) -> LanguageModel:
    """Products in fp32 on the processor, as the peer's are."""
    return load(ModelConfig(name_or_path=name_or_path, precision=Precision.fp32, device=Device.cpu))


def make_case(case: Case, folder: Path) -> None:
    """Write the case. Needs the GPT-2 tokenizer that `fetch_models.py distilgpt2-shape` brings."""
    policy, generator = folder / "policy", torch.Generator().manual_seed(0)
    if case.name == "tiny":
        source = load_fp32("packaged:tiny")
        save(source.model, source.tokenizer, policy)
    else:
        torch.manual_seed(0)
        config = GPT2Config(
            n_layer=3, n_embd=128, n_head=4, n_positions=64, initializer_range=0.1,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        save(GPT2LMHeadModel(config), load_fp32(str(cache_folder() / "distilgpt2-shape")).tokenizer, policy)
    language_model = load_fp32(str(policy))
    prompts, responses = make_tokens(language_model, generator)
    width = language_model.model.get_output_embeddings().weight.shape[1]
    shape = (len(prompts), max(map(len, responses)))
    tensors = {
        "value_head.weight": 0.05 * torch.randn(1, width, generator=generator),
        "value_head.bias": torch.tensor([0.1]),
        "shift.logprobs": 0.3 * torch.randn(shape, generator=generator),  # past the clip range as often as not
        "shift.values": 0.3 * torch.randn(shape, generator=generator),
    }
    save_file(tensors, folder / "inputs.safetensors")
    save(perturb(language_model, generator).model, language_model.tokenizer, folder / "reference")
    record = {"prompts": prompts, "responses": responses, "scores": SCORES, "settings": SETTINGS}
    (folder / "inputs.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


def make_tokens(language_model: LanguageModel, generator: torch.Generator) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of prompts and responses; a response is sampled, cut to the length asked for, and ended where asked for."""
    rollout = sample(
        language_model, [Prompt(text, id=text) for text in PROMPTS], RolloutConfig(max_new_tokens=RESPONSE_TOKENS), generator
    )
    prompts, responses = [], []
    end = language_model.stop_ids[-1]
    split = rollout.tokens.shape[1] - rollout.response_length
    for tokens, mask, (length, finished) in zip(rollout.tokens, rollout.attention_mask.bool(), PROMPTS.values(), strict=True):
        prompts.append(tokens[:split][mask[:split]].tolist())
        ids = tokens[split:][mask[split:]].tolist()[:length]
        responses.append([*ids[:-1], end] if finished else ids)
    return prompts, responses


def perturb(language_model: LanguageModel, generator: torch.Generator) -> LanguageModel:
    """A copy whose weights are a little off, so that the KL to it is not zero."""
    twin = language_model.frozen_copy()
    for parameter in twin.model.parameters():
        noise: Tensor = torch.randn(parameter.shape, generator=generator)
        parameter.data += PERTURBATION * parameter.std().nan_to_num() * noise
    return twin

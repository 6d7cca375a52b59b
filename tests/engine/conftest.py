"""Models of every family the engine knows, small and with random weights, beside the packaged one."""

import dataclasses

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llmrl.models.load import LanguageModel

VOCABULARY = 4096  # the packaged tokenizer's


def _llama(**changes: object) -> LlamaConfig:
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
    }  # fmt: skip
    return LlamaConfig(**settings | changes)


def _make(name: str) -> PreTrainedModel:
    gpt2 = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 512}
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**gpt2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    if name == "gpt2, untied, scaled by layer":
        return GPT2LMHeadModel(
            GPT2Config(**gpt2, tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True, activation_function="relu")
        )
    if name == "llama":
        return LlamaForCausalLM(_llama())
    if name == "llama, untied, biased, scaled positions":
        rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64}  # fmt: skip
        return LlamaForCausalLM(
            _llama(tie_word_embeddings=False, attention_bias=True, mlp_bias=True, rope_parameters=rope, head_dim=16)
        )
    if name == "llama, positions by yarn":
        yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
        return LlamaForCausalLM(_llama(rope_parameters=yarn))
    if name == "llama, positions stretched":
        return LlamaForCausalLM(_llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}))
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=512, use_sliding_window=False,
        )
    )  # fmt: skip


FAMILIES = ["packaged", "gpt2", "gpt2, untied, scaled by layer", "llama", "llama, untied, biased, scaled positions",
            "llama, positions by yarn", "llama, positions stretched", "qwen2"]  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tiny: LanguageModel) -> LanguageModel:
    """In fp32, weights of the test's own, every parameter trained."""
    if request.param == "packaged":
        return tiny
    torch.manual_seed(1)
    model = _make(request.param).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms are not 0 and 1 in a model that has learned
            parameter += 0.05 * torch.randn_like(parameter)
    return dataclasses.replace(tiny, model=model, name=request.param)

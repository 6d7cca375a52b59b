"""Responses sampled from a model, with the log-probability of every token."""

from llmrl.rollout.distribution import token_logprobs, warp
from llmrl.rollout.sampler import Rollout, encode_prompts, sample

__all__ = ["Rollout", "encode_prompts", "sample", "token_logprobs", "warp"]

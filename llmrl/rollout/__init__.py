"""Responses sampled from a model, with the log-probability of every token."""

from llmrl.models.distribution import Distribution, token_logprobs, truncate
from llmrl.rollout.engines import check_engine, sampler_of
from llmrl.rollout.sampler import Rollout, encode_prompts, response_logprobs, rollout_of, sample

__all__ = [
    "Distribution",
    "Rollout",
    "check_engine",
    "encode_prompts",
    "response_logprobs",
    "rollout_of",
    "sample",
    "sampler_of",
    "token_logprobs",
    "truncate",
]

"""Responses from vLLM, with the weights of the policy brought over before every batch."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmrl.config import RolloutConfig
from llmrl.errors import UserError, one_line
from llmrl.models.load import LanguageModel, save
from llmrl.models.trainable import merged
from llmrl.prompts import Prompt
from llmrl.rollout.sampler import Rollout, encode_prompts, rollout_of

_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: the weights are handed over, not sent
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
ENOUGH_ROWS, LONGEST = 128, 4096
"""Rows that vLLM samples at once, and tokens of a prompt with its response that it is given memory for."""


class VLLMSampler:
    """The same interface as `llmrl.rollout.sample`, with vLLM's engine behind it.

    Log-probabilities are llmrl's own, worked out anew (`rollout_of`); how far vLLM's are from them is a figure
    of every batch. vLLM draws from a random stream of its own, seeded at the start: a run that is resumed
    does not go on to the bit.
    """

    def __init__(self, language_model: LanguageModel, config: RolloutConfig, seed: int) -> None:
        """Load vLLM and hand it the model. Raises UserError where it can't be imported."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(f"rollout=vllm: vllm is installed but can't be imported: {one_line(error)}") from error
        self._config = config
        self._language_model = language_model
        self._gap = 0.0
        with tempfile.TemporaryDirectory() as folder:
            save(merged(language_model).model, language_model.tokenizer, Path(folder))
            limit = min(language_model.context_length or LONGEST, LONGEST)
            self._engine: Any = LLM(
                model=folder, dtype="bfloat16" if language_model.bf16 else "float32", max_model_len=limit,
                max_num_seqs=ENOUGH_ROWS, gpu_memory_utilization=0.2, seed=seed, enforce_eager=config.vllm_eager,
                enable_prefix_caching=False, logprobs_mode="processed_logprobs",
            )  # fmt: skip
        self._wanted = SamplingParams(
            temperature=config.temperature, top_k=config.top_k or -1, top_p=config.top_p, max_tokens=config.max_new_tokens,
            min_tokens=config.min_new_tokens, stop_token_ids=list(language_model.stop_ids), ignore_eos=True, logprobs=0,
            detokenize=False,
        )  # fmt: skip

    def __call__(self, prompts: Sequence[Prompt], generator: torch.Generator) -> Rollout:
        """One response to each prompt; `generator` is not used. Raises UserError if one is too long."""
        rows = encode_prompts(self._language_model, prompts, self._config.max_new_tokens)
        longest = max(map(len, rows), default=0) + self._config.max_new_tokens
        if longest > LONGEST:
            raise UserError(
                f"rollout=vllm holds {LONGEST} tokens of prompt and response, and one may need {longest}: use rollout=sample"
            )
        weights = ((name, value.detach()) for name, value in merged(self._language_model).model.named_parameters())
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        found = self._engine.generate([{"prompt_token_ids": row} for row in rows], self._wanted, use_tqdm=False)
        responses = [list(one.outputs[0].token_ids) for one in found]
        rollout = rollout_of(self._language_model, prompts, responses, self._config)
        theirs = [next(iter(token.values())).logprob for one in found for token in one.outputs[0].logprobs]
        ours = rollout.logprobs[rollout.response_mask.bool()].cpu()
        self._gap = float((ours - torch.tensor(theirs)).abs().mean())
        return rollout

    def figures(self) -> dict[str, float]:
        """`rollout/logprob_gap`: mean absolute difference of its log-probabilities to llmrl's, nats per token, last batch."""
        is_cut = self._config.top_k > 0 or self._config.top_p < 1  # then vLLM's are of another distribution
        return {} if is_cut else {"rollout/logprob_gap": self._gap}

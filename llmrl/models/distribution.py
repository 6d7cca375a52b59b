"""The distribution responses are drawn from, and log-probabilities under it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.config import RolloutConfig
from llmrl.models.load import LanguageModel

_NEVER = -1e30  # a logit of probability 0; unlike -inf it leaves p * logit at 0, so that an entropy stays a number


@dataclass(frozen=True)
class Distribution:
    """What sampling and every log-probability must agree on: the temperature, and where a response may not end yet.

    Top-k and top-p are not among it: they cut by what the policy of the moment finds likely, so after an update the tokens that
    were sampled may lie outside; training warns where they are set, and scores under the full distribution.
    """

    temperature: float = 1.0
    min_new_tokens: int = 0
    stop_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, language_model: LanguageModel, config: RolloutConfig) -> "Distribution":
        return cls(config.temperature, config.min_new_tokens, language_model.stop_ids)

    @property
    def is_plain(self) -> bool:
        """Whether it is the model's own distribution."""
        return self.temperature == 1 and self.min_new_tokens == 0

    def apply(self, logits: Tensor, first: int = 0) -> Tensor:
        """[..., T, V] raw logits of response tokens `first` to `first` + T - 1 -> fp32 logits of this distribution."""
        return self.warp(logits.float(), torch.arange(first, first + logits.shape[-2], device=logits.device))

    def warp(self, logits: Tensor, steps: Tensor) -> Tensor:
        """[..., n, V] raw logits in fp32, each row's with the number of response tokens before it in `steps` [n].

        Dividing by the temperature in sampling and not elsewhere would make the KL rise by itself (Huang et al., The N
        Implementation Details of RLHF with PPO, 2023).
        """
        if self.temperature != 1:
            logits = logits / self.temperature
        early = steps < self.min_new_tokens
        if self.stop_ids and self.min_new_tokens and bool(early.any()):
            barred = torch.zeros(logits.shape[-2:], dtype=torch.bool, device=logits.device)
            barred[:, list(self.stop_ids)] = early.unsqueeze(-1)
            logits = logits.masked_fill(barred, _NEVER)
        return logits


LIKELIEST = 1024
"""So many of the likeliest tokens nearly always hold the mass that top-p keeps: sorting all would take most of sampling."""


def truncate(logits: Tensor, config: RolloutConfig) -> Tensor:
    """[..., V] logits with the tokens that top-k and top-p leave out at -inf; all that tie with the last one kept are kept."""
    if config.top_k == 0 and config.top_p == 1:
        return logits
    logits, size = logits.float(), logits.shape[-1]  # sums of probabilities in bf16 would cut elsewhere
    cut = 0 < config.top_k < size
    likeliest = logits.topk(config.top_k if cut else min(LIKELIEST, size)).values
    least = likeliest[..., -1:]
    if config.top_p < 1:
        if cut:  # what top-k keeps: the likeliest, and what ties with the last of them
            tied = (logits == least).sum(-1, keepdim=True) - (likeliest == least).sum(-1, keepdim=True)
            total = likeliest.logsumexp(-1, keepdim=True).logaddexp(least + tied.log())
        else:
            total = logits.logsumexp(-1, keepdim=True)
            if likeliest.shape[-1] < size and bool(((likeliest - total).exp().sum(-1) < config.top_p).any()):
                likeliest = logits.sort(dim=-1, descending=True).values
        probabilities = (likeliest - total).exp()
        before = probabilities.cumsum(-1) - probabilities  # mass of the likelier tokens: the first is always kept
        least = likeliest.gather(-1, (before < config.top_p).sum(-1, keepdim=True) - 1)
    return logits.masked_fill(logits < least, -torch.inf)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [B, T] of `tokens` [B, T] under softmax(logits [B, T, V]), in nats. Apply the `Distribution` first."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) over the last dimension: logsumexp(z) - sum p z."""
    return logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)

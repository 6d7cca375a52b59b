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
        """[..., T, V] raw logits of response tokens `first` to `first` + T - 1 -> fp32 logits of this distribution.

        Dividing by the temperature in sampling and not elsewhere would make the KL rise by itself (Huang et al., The N
        Implementation Details of RLHF with PPO, 2023).
        """
        logits = logits.float()
        if self.temperature != 1:
            logits = logits / self.temperature
        early = min(max(self.min_new_tokens - first, 0), logits.shape[-2])
        if early and self.stop_ids:
            barred = torch.zeros(logits.shape[-2:], dtype=torch.bool, device=logits.device)
            barred[:early, list(self.stop_ids)] = True
            logits = logits.masked_fill(barred, _NEVER)
        return logits


def truncate(logits: Tensor, config: RolloutConfig) -> Tensor:
    """[..., V] logits with the tokens that top-k and top-p leave out at -inf."""
    if 0 < config.top_k < logits.shape[-1]:
        threshold = logits.topk(config.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if config.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the likelier tokens: the first is always kept
        outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= config.top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [B, T] of `tokens` [B, T] under softmax(logits [B, T, V]), in nats. Apply the `Distribution` first."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)

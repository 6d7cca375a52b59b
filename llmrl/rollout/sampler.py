"""Sample responses token by token with a key-value cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.config import RolloutConfig
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel
from llmrl.models.policy import position_ids, response_logits
from llmrl.prompts import Prompt
from llmrl.rewards import Sample
from llmrl.rollout.distribution import Distribution, token_logprobs, truncate


@dataclass
class Rollout:
    """B responses of at most T tokens to prompts of at most P. Tokens are made once and never re-tokenised from text."""

    tokens: Tensor  # [B, P+T], prompts padded on the left, responses on the right
    attention_mask: Tensor  # [B, P+T], 1 on real tokens
    response_mask: Tensor  # [B, T], 1 on sampled tokens, the one that ended the text included
    logprobs: Tensor  # [B, T], nats, under the distribution sampled from; 0 on padding
    finished: Tensor  # [B], the response ended by itself
    prompts: list[Prompt]
    texts: list[str]  # decoded responses, without the token or (unless it is to be kept) the stop text that ended them

    @property
    def response_length(self) -> int:
        return self.response_mask.shape[1]

    @property
    def response_tokens(self) -> Tensor:
        return self.tokens[:, -self.response_length :]

    def samples(self, max_new_tokens: int) -> list[Sample]:
        """The responses as rewards see them."""
        lengths = self.response_mask.sum(-1).tolist()
        return [
            Sample(
                prompt=prompt.text, response=text, prompt_id=prompt.id, token_ids=tuple(ids[:length]), finished=finished,
                max_new_tokens=max_new_tokens, context=prompt.context, answer=prompt.answer,
            )
            for prompt, text, ids, length, finished in zip(
                self.prompts, self.texts, self.response_tokens.tolist(), lengths, self.finished.tolist(), strict=True
            )
        ]  # fmt: skip


def encode_prompts(language_model: LanguageModel, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
    """Token ids of each prompt. Raises UserError for one that leaves no room for its response, or has no tokens."""
    rows = language_model.tokenizer([prompt.text for prompt in prompts], add_special_tokens=True)["input_ids"]
    limit = language_model.context_length
    for prompt, row in zip(prompts, rows, strict=True):  # type: ignore[arg-type]
        if not row:
            raise UserError(f"prompt {prompt.id} has no tokens: it is empty")
        if limit is not None and len(row) + max_new_tokens > limit:  # type: ignore[arg-type]
            raise UserError(
                f"prompt {prompt.id} has {len(row)} tokens; with {max_new_tokens} new ones that is more than the {limit} "  # type: ignore[arg-type]
                f"model {language_model.name!r} can hold: shorten it or set rollout.max_new_tokens="
                f"{max(limit - len(row), 1) if len(row) < limit else 1}"  # type: ignore[arg-type]
            )
    return rows  # type: ignore[return-value]


@torch.no_grad()
def sample(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    config: RolloutConfig,
    generator: torch.Generator,
    *,
    greedy: bool = False,
    on_token: Callable[[Tensor], None] | None = None,
) -> Rollout:
    """One response to each prompt, all at once.

    `generator` is on the CPU whatever the device, so that a seed means the same everywhere. `on_token` sees the new tokens [B]
    of each step as they are made. The weights are brought to bf16 once for the whole rollout, by autocast's cache.
    """
    rows = encode_prompts(language_model, prompts, config.max_new_tokens)
    device, width = language_model.device, max(map(len, rows))
    tokens = torch.full((len(rows), width + config.max_new_tokens), language_model.pad_id)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) : width] = torch.tensor(row)
        mask[i, width - len(row) : width] = 1
    tokens, mask = tokens.to(device), mask.to(device)
    logprobs = torch.zeros(len(rows), config.max_new_tokens, device=device)
    stops = torch.tensor(language_model.stop_ids, device=device)
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    finished = torch.zeros_like(alive)
    drawn_from = Distribution.of(language_model, config)
    cache, fresh, length = None, slice(0, width), 0
    with language_model.autocast():
        while length < config.max_new_tokens and alive.any():
            output = language_model.model(
                input_ids=tokens[:, fresh],
                attention_mask=mask[:, : fresh.stop],
                position_ids=position_ids(mask[:, : fresh.stop])[:, fresh],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache, at = output.past_key_values, fresh.stop
            logits = drawn_from.apply(output.logits[:, -1:], first=length)[:, 0]
            distribution = truncate(logits, config).log_softmax(-1)
            new = distribution.argmax(-1) if greedy else draw(distribution, generator)
            tokens[:, at] = torch.where(alive, new, tokens[:, at])
            mask[:, at] = alive.long()
            logprobs[:, length] = distribution.gather(-1, new.unsqueeze(-1)).squeeze(-1) * alive
            if on_token is not None:
                on_token(tokens[:, at])
            ended = torch.isin(new, stops)
            fresh, length = slice(at, at + 1), length + 1
            if config.stop and length >= config.min_new_tokens:
                ended = ended | _has_stop_text(language_model, tokens[:, width : width + length], alive & ~ended, config)
            finished = finished | (alive & ended)
            alive = alive & ~ended
    tokens, mask, logprobs = tokens[:, : width + length], mask[:, : width + length], logprobs[:, :length]
    texts = _decode(language_model, tokens[:, width:], mask[:, width:], config)
    return Rollout(tokens, mask, mask[:, width:], logprobs, finished, list(prompts), texts)


@torch.no_grad()
def rollout_of(
    language_model: LanguageModel, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], config: RolloutConfig
) -> Rollout:
    """Responses, as token ids, that something else drew from the model, as if `sample` had made them.

    Log-probabilities are the model's own, worked out anew; a response is finished if it ends in a token that ends a text.
    """
    rows = encode_prompts(language_model, prompts, config.max_new_tokens)
    width, length = max(map(len, rows)), max(map(len, responses))
    tokens = torch.full((len(rows), width + length), language_model.pad_id)
    mask = torch.zeros_like(tokens)
    for i, (row, response) in enumerate(zip(rows, responses, strict=True)):
        place = slice(width - len(row), width + len(response))
        tokens[i, place] = torch.tensor([*row, *response])
        mask[i, place] = 1
    tokens, mask = tokens.to(language_model.device), mask.to(language_model.device)
    finished = torch.tensor([bool(ids) and ids[-1] in language_model.stop_ids for ids in responses]).to(tokens.device)
    texts = _decode(language_model, tokens[:, width:], mask[:, width:], config)
    made = Rollout(tokens, mask, mask[:, width:], torch.zeros(len(rows), length), finished, list(prompts), texts)
    made.logprobs = response_logprobs(language_model, made, Distribution.of(language_model, config))
    return made


def draw(log_distribution: Tensor, generator: torch.Generator) -> Tensor:
    """One token [B] from each row of log-probabilities [B, V], by the inverse of the cumulative distribution.

    Exactly one uniform number is used per row, from one stream on the CPU: two models given the same seed use the same numbers,
    which is what makes their comparison paired.
    """
    cumulative = log_distribution.double().exp().cumsum(-1)
    uniform = torch.rand(len(log_distribution), 1, generator=generator, dtype=torch.float64).to(cumulative.device)
    token = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(-1)
    return token.clamp(max=log_distribution.shape[-1] - 1)


def _has_stop_text(language_model: LanguageModel, responses: Tensor, alive: Tensor, config: RolloutConfig) -> Tensor:
    """[B]: whether a response [B, t] that is still `alive` says one of the texts that end it."""
    found = torch.zeros_like(alive)
    for i in alive.nonzero().flatten().tolist():
        row = responses[i].tolist()
        found[i] = _stop_text(language_model, row, _text(language_model, row), config) is not None
    return found


def _decode(language_model: LanguageModel, responses: Tensor, mask: Tensor, config: RolloutConfig) -> list[str]:
    """The responses [B, T] as text, without the token that ended them, cut at the stop text that did."""
    texts = []
    for row, length in zip(responses.tolist(), mask.sum(-1).tolist(), strict=True):
        ended = length > 0 and row[length - 1] in language_model.stop_ids
        text = _text(language_model, row[: length - ended])
        stop = None if ended else _stop_text(language_model, row[:length], text, config)
        texts.append(text if stop is None else text[: stop.stop if config.include_stop else stop.start])
    return texts


def _stop_text(language_model: LanguageModel, row: list[int], text: str, config: RolloutConfig) -> slice | None:
    """Where the first stop text stands in `text`, the decoded `row`; one within the minimum length does not count."""
    if not config.stop:
        return None
    least = len(_text(language_model, row[: max(config.min_new_tokens - 1, 0)]))
    places = [slice(at, at + len(each)) for each in config.stop if (at := text.find(each, max(least + 1 - len(each), 0))) >= 0]
    return min(places, key=lambda place: (place.start, place.stop), default=None)


def _text(language_model: LanguageModel, row: list[int]) -> str:
    return str(language_model.tokenizer.decode(row, skip_special_tokens=False))


@torch.no_grad()
def response_logprobs(
    language_model: LanguageModel, rollout: Rollout, distribution: Distribution, rows_at_once: int = 16
) -> Tensor:
    """[B, T] log-probabilities of a rollout's responses under another model, in nats, 0 on padding."""
    parts = []
    for tokens, mask in zip(rollout.tokens.split(rows_at_once), rollout.attention_mask.split(rows_at_once), strict=True):
        logits = distribution.apply(response_logits(language_model, tokens, mask, rollout.response_length))
        parts.append(token_logprobs(logits, tokens[:, -rollout.response_length :]))
    return torch.cat(parts) * rollout.response_mask

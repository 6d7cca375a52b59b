"""Sample responses token by token with a key-value cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.config import RolloutConfig
from llmrl.errors import RunError, UserError
from llmrl.models.distribution import Distribution, truncate
from llmrl.models.load import LanguageModel
from llmrl.models.policy import token_statistics
from llmrl.prompts import Prompt
from llmrl.rewards import Sample
from llmrl.rollout.decoding import decoding


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
    of each step as they are made. Each step takes as many random numbers as there are prompts, however many still go on.
    """
    rows, device = encode_prompts(language_model, prompts, config.max_new_tokens), language_model.device
    width = max(map(len, rows))
    tokens, mask = _laid_out(language_model, rows, width + config.max_new_tokens, width)
    logprobs = torch.zeros(len(rows), config.max_new_tokens, device=device)
    stops = torch.tensor(language_model.stop_ids, device=device)
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    finished, length = torch.zeros_like(alive), 0
    drawn_from = Distribution.of(language_model, config)
    active = torch.arange(len(rows), device=device)  # the rows that the decoder goes on with
    with decoding(language_model) as decoder:
        logits = decoder.read(tokens[:, :width], mask[:, :width])
        while True:
            at = width + length
            if not drawn_from.is_plain:
                logits = drawn_from.warp(logits.float(), torch.full_like(active, length))
            uniform = torch.rand(len(rows), generator=generator, dtype=torch.float64).to(device)
            new, likely = choose(truncate(logits, config), None if greedy else uniform[active])
            going = alive[active]
            tokens[active, at] = torch.where(going, new, tokens[active, at])
            mask[active, at] = going.long()
            logprobs[active, length] = likely * going
            if on_token is not None:
                on_token(tokens[:, at])
            ended = torch.zeros_like(alive)
            ended[active] = torch.isin(new, stops)
            length += 1
            if config.stop and length >= config.min_new_tokens:
                ended = ended | _has_stop_text(language_model, tokens[:, width : width + length], alive & ~ended, config)
            finished = finished | (alive & ended)
            alive = alive & ~ended
            if length == config.max_new_tokens or not alive.any():
                break
            going = alive[active]
            if int(going.sum()) <= WORTH_DROPPING * len(active):
                kept = going.nonzero().squeeze(-1)
                decoder.keep(kept)
                active, new = active[kept], new[kept]
            logits = decoder.step(new)
    tokens, mask, logprobs = tokens[:, : width + length], mask[:, : width + length], logprobs[:, :length]
    texts = _decode(language_model, tokens[:, width:], mask[:, width:], config)
    return Rollout(tokens, mask, mask[:, width:], logprobs, finished, list(prompts), texts)


def _laid_out(
    language_model: LanguageModel, rows: Sequence[Sequence[int]], columns: int, width: int,
    responses: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(tokens, attention mask), [B, columns]: prompts end at column `width`, where responses begin."""
    tokens = torch.full((len(rows), columns), language_model.pad_id)
    mask = torch.zeros_like(tokens)
    for i, (row, response) in enumerate(zip(rows, responses or [()] * len(rows), strict=True)):
        place = slice(width - len(row), width + len(response))
        tokens[i, place] = torch.tensor([*row, *response])
        mask[i, place] = 1
    return tokens.to(language_model.device), mask.to(language_model.device)


@torch.no_grad()
def rollout_of(
    language_model: LanguageModel, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], config: RolloutConfig
) -> Rollout:
    """Responses, as token ids, that something else drew from the model, as if `sample` had made them.

    Log-probabilities are the model's own, worked out anew; a response is finished if it ends in a token that ends a text.
    """
    rows = encode_prompts(language_model, prompts, config.max_new_tokens)
    width, length = max(map(len, rows)), max(map(len, responses))
    tokens, mask = _laid_out(language_model, rows, width + length, width, responses)
    finished = torch.tensor([bool(ids) and ids[-1] in language_model.stop_ids for ids in responses]).to(tokens.device)
    texts = _decode(language_model, tokens[:, width:], mask[:, width:], config)
    made = Rollout(tokens, mask, mask[:, width:], torch.zeros(len(rows), length), finished, list(prompts), texts)
    made.logprobs = response_logprobs(language_model, made, Distribution.of(language_model, config))
    return made


WORTH_DROPPING = 0.75
"""Rows that have ended are computed along until no more than this share of them goes on: dropping them copies the cache."""


BLOCK = 256
"""Tokens whose probabilities are added up first: the sum that is reached is then looked for in two short lists."""


def choose(logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """(tokens [B], their log-probabilities [B]) from softmax(logits [B, V]): drawn, or without `uniform` [B] the likeliest.

    By the inverse of the cumulative distribution, which takes one uniform number a row: two models given the same numbers are
    compared in pairs. `uniform` is in [0, 1), in fp64, as the sums are; what has no probability is never drawn. Raises
    RunError where the logits are no numbers.
    """
    probabilities = logits.softmax(-1, dtype=torch.float32)
    if not bool(probabilities.sum().isfinite()):
        raise RunError("the model's probabilities are no numbers any more: its weights have diverged; try a lower ppo.lr")
    if uniform is None:
        tokens = logits.argmax(-1)
    else:
        size = logits.shape[-1]
        whole = size // BLOCK * BLOCK
        blocks = probabilities[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1)
        blocks = torch.cat([blocks, probabilities[:, whole:].sum(-1, keepdim=True)], -1)
        block, share = _reach(blocks, uniform)
        places = block.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=logits.device)
        within = probabilities.gather(-1, places.clamp(max=size - 1)).masked_fill(places >= size, 0)
        inside, _ = _reach(within, share)
        tokens = block * BLOCK + inside
    return tokens, probabilities.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).log()


def _reach(weights: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """(index [B] at which the sum of weights [B, n] passes `share` [B] of the whole, the share of its own weight used up)."""
    sums = weights.double().cumsum(-1)
    wanted = share * sums[:, -1]
    index = torch.searchsorted(sums, wanted.unsqueeze(-1), right=True).squeeze(-1)
    own = weights.double().gather(-1, index.unsqueeze(-1)).squeeze(-1)
    before = sums.gather(-1, index.unsqueeze(-1)).squeeze(-1) - own
    return index, ((wanted - before) / own).clamp(0, 1 - 2**-53)


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
    columns = (rollout.tokens, rollout.attention_mask, rollout.response_mask)
    return torch.cat(
        [
            token_statistics(language_model, tokens, mask, asked, distribution).logprobs
            for tokens, mask, asked in zip(*(each.split(rows_at_once) for each in columns), strict=True)
        ]
    )

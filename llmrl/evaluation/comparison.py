"""Base against trained on the same prompts with the same random numbers."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch

from llmrl.config import EvaluationConfig, RolloutConfig
from llmrl.evaluation.bootstrap import Interval, paired_interval, verdict
from llmrl.models.load import LanguageModel
from llmrl.prompts import Prompt
from llmrl.rewards import Reward, Sample, score
from llmrl.rewards.no_repeat import repeated_share, stutter, words_of
from llmrl.rollout import Distribution, Rollout, response_logprobs, sample
from llmrl.tracking.run_folder import write_text


@dataclass(frozen=True)
class Answer:
    """One response of one model."""

    response: str
    reward: float
    components: dict[str, float]


@dataclass(frozen=True)
class Texts:
    """What one model's responses are like, whatever the reward says; means over responses unless it says otherwise."""

    words: float
    finished: float  # share that ended by themselves
    repeating: float  # share that says three words in a row again, or a word twice in a row
    distinct: float  # distinct words over words, all responses together
    perplexity_under_base: float  # median over responses; low is fluent, very low is dull


@dataclass(frozen=True)
class Comparison:
    """n responses of each model, paired by prompt and random numbers."""

    base_name: str
    trained_name: str
    samples: int
    prompts: int
    base_reward: float
    trained_reward: float
    difference: Interval
    verdict: str
    components: dict[str, Interval]  # difference of each reward component
    kl: float  # nats per response: mean log p_trained - log p_base over the trained model's responses
    base: Texts
    trained: Texts
    pairs: list[tuple[str, Answer, Answer]]  # prompt, base, trained

    def headline(self) -> dict[str, float | str]:
        """What a summary shows."""
        return {
            "base_reward": self.base_reward, "trained_reward": self.trained_reward, "difference": self.difference.mean,
            "low": self.difference.low, "high": self.difference.high, "verdict": self.verdict, "kl": self.kl,
            "samples": float(self.samples),
        }  # fmt: skip


def compare(
    base: LanguageModel,
    trained: LanguageModel,
    prompts: Sequence[Prompt],
    rewards: Mapping[str, Reward],
    rollout: RolloutConfig,
    config: EvaluationConfig,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Sample at least `config.samples` responses of each model, the same number to each prompt, and compare them in pairs.

    `on_batch` is told how many more were sampled, 0 while they are scored; what it raises ends the comparison.
    """
    each = math.ceil(config.samples / len(prompts))
    chosen = list(prompts)[: math.ceil(config.samples / each)]
    asked = [prompt for prompt in chosen for _ in range(each)]
    base_rollouts = _sample(base, asked, rollout, config, on_batch)
    trained_rollouts = _sample(trained, asked, rollout, config, on_batch)
    scored = {
        name: score(rewards, [one for each in rollouts for one in each.samples(rollout.max_new_tokens)])
        for name, rollouts in (("base", base_rollouts), ("trained", trained_rollouts))
    }
    shape = (len(chosen), each)
    gain = np.subtract(scored["trained"].total, scored["base"].total).reshape(shape)
    difference = paired_interval(gain, config.seed)
    components = {
        name: paired_interval(np.subtract(values, scored["base"].components[name]).reshape(shape), config.seed)
        for name, values in scored["trained"].components.items()
    }
    base_texts, _ = _describe(base_rollouts, base, None, rollout, on_batch)
    trained_texts, kl = _describe(trained_rollouts, base, trained, rollout, on_batch)
    answers = {
        name: [
            Answer(text, scored[name].total[i], {key: values[i] for key, values in scored[name].components.items()})
            for i, text in enumerate(text for each in rollouts for text in each.texts)
        ]
        for name, rollouts in (("base", base_rollouts), ("trained", trained_rollouts))
    }
    return Comparison(
        base_name=base.name, trained_name=trained.name, samples=len(asked), prompts=len(chosen),
        base_reward=fmean(scored["base"].total), trained_reward=fmean(scored["trained"].total), difference=difference,
        verdict=verdict(difference), components=components, kl=kl, base=base_texts, trained=trained_texts,
        pairs=[(ask.text, b, t) for ask, b, t in zip(asked, answers["base"], answers["trained"], strict=True)],
    )  # fmt: skip


def _sample(
    language_model: LanguageModel, prompts: Sequence[Prompt], rollout: RolloutConfig, config: EvaluationConfig,
    on_batch: Callable[[int], None],
) -> list[Rollout]:  # fmt: skip
    """Each batch has a seed of its own, so that a model that ends early does not shift the other's random numbers."""
    rollouts = []
    for start in range(0, len(prompts), config.batch_size):
        generator = torch.Generator().manual_seed(config.seed + start)
        rollouts.append(sample(language_model, prompts[start : start + config.batch_size], rollout, generator))
        on_batch(len(rollouts[-1].prompts))
    return rollouts


def _describe(
    rollouts: Sequence[Rollout], base: LanguageModel, trained: LanguageModel | None, config: RolloutConfig,
    on_batch: Callable[[int], None],
) -> tuple[Texts, float]:  # fmt: skip
    """(text metrics, KL of `trained` to base in nats per response; 0 for the base itself)."""
    samples = [one for rollout in rollouts for one in rollout.samples(config.max_new_tokens)]
    words = [words_of(one.response) for one in samples]
    everything = [word for row in words for word in row]
    perplexities, kls = [], [0.0]
    sampled_from = Distribution.of(base, config)
    for rollout in rollouts:
        on_batch(0)
        under_base = response_logprobs(base, rollout, Distribution())
        lengths = rollout.response_mask.sum(-1)
        perplexities += (-under_base.sum(-1) / lengths).exp().tolist()
        if trained is not None:
            same = under_base if sampled_from.is_plain else response_logprobs(base, rollout, sampled_from)
            gap = response_logprobs(trained, rollout, sampled_from) - same
            kls += gap.sum(-1).tolist()
    texts = Texts(
        words=fmean(len(one.response.split()) for one in samples),
        finished=fmean(float(one.finished) for one in samples),
        repeating=fmean(float(repeats(one)) for one in samples),
        distinct=len(set(everything)) / max(len(everything), 1),
        perplexity_under_base=median(perplexities),
    )
    return texts, sum(kls) / max(len(kls) - 1, 1)


def repeats(sample: Sample) -> bool:
    """Whether three words in a row are said again (the prompt's count, too), or a word twice in a row."""
    words = words_of(sample.response)
    return bool(words) and (repeated_share(words, 3, words_of(sample.prompt)) > 0 or stutter(words, sample.response) > 0)


def write_comparison(path: Path, comparison: Comparison) -> None:
    """evaluation.json: every figure and every pair."""
    write_text(path, json.dumps(asdict(comparison), indent=1, ensure_ascii=False) + "\n")

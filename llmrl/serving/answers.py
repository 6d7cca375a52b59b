"""What pages ask for, done by the functions that the commands use: one response as it comes, many of them compared, a question
answered with and without sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from llmrl.config import AskConfig, EvaluationConfig, ModelConfig, RolloutConfig
from llmrl.errors import RunError, UserError
from llmrl.evaluation.comparison import Comparison, compare
from llmrl.models.load import LanguageModel
from llmrl.prompts import Prompt
from llmrl.retrieval.questions import Question
from llmrl.rewards import Reward, Sample, score
from llmrl.rollout.ask import Answer, Asker
from llmrl.rollout.sampler import sample
from llmrl.rollout.stream import as_it_comes
from llmrl.serving.response import Arm, Piece, Response
from llmrl.serving.shelf import Shelf
from llmrl.serving.worker import Tell

BATCH = 16
"""Responses sampled at once for an average; other visitors have their turn in between."""


def respond(
    shelf: Shelf, arm: Arm, prompt: str, rollout: RolloutConfig, seed: int, greedy: bool, rewards: Mapping[str, Reward],
    tell: Tell,
) -> Response:  # fmt: skip
    """One response, told as it comes. Its random numbers are those of every other arm with that seed."""
    language_model = shelf.language_model(arm.model)
    show = as_it_comes(language_model, lambda text: tell(Piece(arm.name, text)))

    def on_token(tokens: torch.Tensor) -> None:
        tell.check()
        show(tokens)

    made = sample(
        language_model, [Prompt(prompt, id="0")], rollout, torch.Generator().manual_seed(seed), greedy=greedy, on_token=on_token
    )
    return scored(made.samples(rollout.max_new_tokens)[0], rewards)


def scored(one: Sample, rewards: Mapping[str, Reward]) -> Response:
    """A sample with what each reward gives it."""
    made, troubles = Response(one.prompt, one.response, len(one.token_ids), one.finished), []
    for name, each in rewards.items():
        try:
            made.components[name] = score({name: each}, [one]).components[name][0]
            made.weights[name] = each.weight
        except (UserError, RunError) as error:
            troubles.append(str(error))
    if rewards and not troubles:
        made.total = sum(made.weights[name] * value for name, value in made.components.items())
    made.trouble = "; ".join(troubles)
    return made


def average(
    shelf: Shelf, base: Arm, trained: Arm, prompts: Sequence[str], rollout: RolloutConfig, seed: int,
    rewards: Mapping[str, Reward], samples: int, tell: Tell,
) -> Comparison:  # fmt: skip
    """What `llmrl.compare` works out, of these prompts. Tells how many responses were sampled; others have their turn.

    Raises UserError or RunError where a reward can't be worked out.
    """

    def on_batch(done: int) -> None:
        tell(done)
        tell.let_others()

    asked = [Prompt(text, id=str(number)) for number, text in enumerate(prompts)]
    settings = EvaluationConfig(samples=samples, batch_size=min(BATCH, samples), seed=seed)
    models = [replace(shelf.language_model(arm.model), name=arm.name) for arm in (base, trained)]
    one = sample(models[0], asked[:1], rollout, torch.Generator().manual_seed(seed), on_token=lambda tokens: tell.check())
    score(rewards, one.samples(rollout.max_new_tokens))  # a reward that can't be worked out is not found after all the sampling
    return compare(models[0], models[1], asked, rewards, rollout, settings, on_batch)


@dataclass
class Arms:
    """A question answered three ways by one and the same base. None where there is no such arm."""

    alone: str  # the base, given no source
    base: Answer  # the base, given what was found
    trained: Answer | None = None  # the trained model, given the same


def ask_all(shelf: Shelf, config: AskConfig, trained: ModelConfig | None, question: str, tell: Tell) -> Arms:
    """Told as it comes, as pieces at `alone`, `base` and `trained`. Raises UserError."""
    asked, searcher = Question(question, "1"), shelf.searcher(replace(config.retriever, index=config.index))

    def at(name: str) -> "_Listener":
        return _Listener(name, tell)

    def asker(language_model: LanguageModel) -> Asker:
        return Asker(replace(config), language_model, searcher)

    base = asker(shelf.language_model(config.model))
    arms = Arms(base.answer_without(asked, at("alone")), base.answer([asked], at("base"))[0])
    if trained is not None:
        arms.trained = asker(shelf.language_model(trained)).answer([asked], at("trained"))[0]
    return arms


@dataclass(frozen=True)
class _Listener:
    name: str
    tell: Tell

    def __call__(self, text: str) -> None:
        self.tell.check()
        if text:
            self.tell(Piece(self.name, text))

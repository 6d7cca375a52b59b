"""Pages show what the commands would say."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from llmrl.config import (
    CONF_DIR,
    AskConfig,
    EvaluationConfig,
    IngestConfig,
    ModelConfig,
    PromptingConfig,
    RetrieverConfig,
    RolloutConfig,
    packaged,
)
from llmrl.evaluation.comparison import compare
from llmrl.models.load import load
from llmrl.prompts import Prompt
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.questions import Question
from llmrl.rewards.no_repeat import NoRepeat
from llmrl.rollout.ask import Asker
from llmrl.rollout.sampler import sample
from llmrl.serving.answers import ask_all, average, respond
from llmrl.serving.indexing import Quiet
from llmrl.serving.response import Arm, Piece
from llmrl.serving.shelf import Shelf
from llmrl.serving.worker import Told, Worker

TINY = ModelConfig(name_or_path="packaged:tiny")
TRAINED = ModelConfig(name_or_path=str(packaged("packaged:example_run")))
ROLLOUT = RolloutConfig(max_new_tokens=12)
REWARDS = {"no_repeat": NoRepeat(weight=2.0)}


def carried_out(work):
    """(pieces told, result)."""
    worker, pieces, result = Worker(), [], None
    for event in worker.stream(work):
        if isinstance(event, Told):
            pieces.append(event.what)
        else:
            result = getattr(event, "result", result)
    return pieces, result


def test_a_response_is_what_generate_says_and_comes_piece_by_piece() -> None:
    shelf = Shelf()
    arm = Arm("base", TINY)
    pieces, made = carried_out(lambda tell: respond(shelf, arm, "Once upon a time", ROLLOUT, 3, False, REWARDS, tell))
    prompts = [Prompt("Once upon a time", id="0")]
    alone = sample(load(TINY), prompts, ROLLOUT, torch.Generator().manual_seed(3))
    assert made.text == alone.texts[0]
    assert "".join(piece.text for piece in pieces) == made.text
    assert len(pieces) > 3
    assert all(isinstance(piece, Piece) and piece.at == "base" for piece in pieces)
    expected = NoRepeat()(alone.samples(ROLLOUT.max_new_tokens))[0]
    assert made.components == {"no_repeat": pytest.approx(expected)}
    assert made.total == pytest.approx(2 * expected)


def test_a_response_ends_when_nobody_waits() -> None:
    worker, shelf = Worker(), Shelf()
    shelf.language_model(TINY)
    long = RolloutConfig(max_new_tokens=400)
    ended: list[object] = []
    stream = worker.stream(lambda tell: ended.append(respond(shelf, Arm("base", TINY), "A dog", long, 0, False, {}, tell)))
    for event in stream:
        if isinstance(event, Told):
            break
    stream.close()
    assert worker.result(lambda tell: "next") == "next"
    assert ended == []


def test_an_average_is_what_compare_says() -> None:
    shelf, prompts = Shelf(), ["A dog", "The rain"]
    told, made = carried_out(
        lambda tell: average(shelf, Arm("base", TINY), Arm("run", TRAINED), prompts, ROLLOUT, 5, REWARDS, 64, tell)
    )
    asked = [Prompt(text, id=str(number)) for number, text in enumerate(prompts)]
    settings = EvaluationConfig(samples=64, batch_size=16, seed=5)
    alone = compare(load(TINY), load(TRAINED), asked, REWARDS, ROLLOUT, settings)
    assert made.difference == alone.difference
    assert made.pairs == alone.pairs
    assert sum(told) == 128


def test_an_average_can_be_stopped_while_it_is_judged() -> None:
    """Sampling done, what is left is scoring: that takes as long, and asks whether anybody waits as well."""
    told: list[int] = []

    class Stopped(Exception):  # noqa: N818
        pass

    def tell(done: int) -> None:
        told.append(done)
        if sum(told) == 128:
            raise Stopped

    settings, asked = EvaluationConfig(samples=64, batch_size=64, seed=5), [Prompt("A dog", id="0")]
    models = load(TINY), load(TRAINED)
    with pytest.raises(Stopped):
        compare(*models, asked, REWARDS, ROLLOUT, settings, tell)
    told.clear()
    compare(*models, asked, REWARDS, ROLLOUT, settings, told.append)
    assert told == [64, 64, 0, 0]


def test_three_answers_to_a_question_are_those_of_ask(tmp_path: Path) -> None:
    settings = IngestConfig(docs="packaged:demo/docs", index=str(tmp_path / "demo"), retriever=RetrieverConfig(name="bm25"))
    ingest(settings, Quiet())
    prompting = PromptingConfig(**OmegaConf.to_container(OmegaConf.load(CONF_DIR / "prompting" / "sources.yaml")))  # type: ignore[arg-type]

    def config(model: ModelConfig) -> AskConfig:
        retriever = RetrieverConfig(name="auto", k=1)
        return AskConfig(index=str(tmp_path / "demo"), model=model, rollout=ROLLOUT, retriever=retriever, prompting=prompting)

    question = "Why are there two high tides each day?"
    pieces, arms = carried_out(lambda tell: ask_all(Shelf(), config(TINY), TRAINED, question, tell))
    assert {piece.at for piece in pieces} == {"alone", "base", "trained"}
    for made, model in ((arms.base, TINY), (arms.trained, TRAINED)):
        assert made.record() == Asker(config(model)).answer([Question(question, "1")])[0].record()
    assert [source.hit.chunk.path for source in arms.base.sources] == ["tides.md"]
    alone = "".join(piece.text for piece in pieces if piece.at == "alone").strip()
    assert alone == arms.alone != arms.base.said

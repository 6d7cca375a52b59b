"""Answers held against their sources, batches with a bad question among them, and text as it comes."""

import json
from pathlib import Path

import pytest

from llmrl.config import AskConfig, IngestConfig, ModelConfig, PromptingConfig, RetrieverConfig, RolloutConfig
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.questions import Question
from llmrl.rollout import ask as asking
from llmrl.rollout.ask import DONT_KNOW, Asker, ask
from tests.retrieval import quiet

QUESTION = "How fast does sound travel in water?"
PROMPTING = PromptingConfig(source="[{number}] {text}", question="Question: {question}", answer="Answer:")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask") / "index"
    config = IngestConfig(docs="packaged:demo/docs", index=str(folder), retriever=RetrieverConfig(name="bm25"))
    ingest(config, Progress(quiet()))
    return folder


def config(index: Path, **options: object) -> AskConfig:
    settings: dict[str, object] = {
        "index": str(index), "model": ModelConfig(name_or_path="packaged:tiny"), "prompting": PROMPTING,
        "retriever": RetrieverConfig(name="auto", k=2), "rollout": RolloutConfig(max_new_tokens=12),
    }  # fmt: skip
    return AskConfig(**settings | options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def asker(index: Path) -> Asker:
    return Asker(config(index))


def judged(asker: Asker, said: str) -> asking.Answer:
    question = Question(QUESTION, "1")
    return asker._judged(question, asker.ground(question.text), said)


def test_what_stands_in_the_sources_is_answered(asker: Asker) -> None:
    source = asker.ground(QUESTION).sources[0]
    sentence = source.hit.chunk.text.split(". ")[0]
    answer = judged(asker, f"{sentence} [1].")
    assert (answer.abstained, answer.grounded, answer.cited) == (None, 1.0, [1])
    assert 1 in answer.supported_by
    assert answer.text == f"{sentence} [1]."
    assert answer.record()["sources"][0]["cited"] is True


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Bananas grow on purple glaciers.", "only 0% of what the model said stands in its sources"),
        ("I don't know.", "the model says so"),
        ("", "the model says so"),
        ("How fast does sound travel in water?", "what the model said says no more than the question"),
    ],
)
def test_what_does_not_is_not(asker: Asker, said: str, reason: str) -> None:
    answer = judged(asker, said)
    assert (answer.text, answer.abstained, answer.said, answer.cited) == (DONT_KNOW, reason, said, [])


def test_below_a_score_the_model_is_not_asked(index: Path) -> None:
    asker = Asker(config(index, retriever=RetrieverConfig(name="auto", k=2, min_score=1e6)))
    (answer,) = asker.answer([Question(QUESTION, "1")])
    assert (answer.text, answer.abstained, answer.said, answer.sources) == (DONT_KNOW, "nothing was found", "", [])


def test_a_batch_says_what_each_would_alone(asker: Asker) -> None:
    questions = [Question(QUESTION, "1"), Question("Why is the sky blue?", "2"), Question("zzzz qqqq", "3")]
    together = asker.answer(questions)
    assert [answer.question.id for answer in together] == ["1", "2", "3"]
    assert together[2].abstained == "nothing was found"
    for question, answer in zip(questions, together, strict=True):
        assert asker.answer([question])[0].said == answer.said


def test_text_comes_as_it_is_said(asker: Asker) -> None:
    pieces: list[str] = []
    (answer,) = asker.answer([Question(QUESTION, "1")], on_text=pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces).strip() == answer.said


def test_one_bad_question_does_not_cost_the_others(index: Path, tmp_path: Path) -> None:
    questions = [{"question": QUESTION}, {"question": "word " * 5000}, {"question": "Why is the sky\u2028blue?"}]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions), encoding="utf-8")
    assert ask(config(index, file=str(path), out=str(tmp_path / "answers.jsonl"))) == 0
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert [row["answer"] is None for row in rows] == [False, True, False]
    assert "25,000 characters" in rows[1]["error"]
    assert not list(tmp_path.glob(".*.tmp"))

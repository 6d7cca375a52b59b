"""Prompts with their contexts: each kind holds what it says, and the answer is known to be missing where it is."""

import json
from pathlib import Path

import pytest

from llmrl.config import (
    ContextConfig,
    ContextKind,
    IngestConfig,
    ModelConfig,
    PPOConfig,
    PromptingConfig,
    PromptsConfig,
    PromptSource,
    RetrieverConfig,
    TrainConfig,
)
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel, load
from llmrl.prompts import Prompt, PromptSplit, load_prompts
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.progress import Progress
from llmrl.rewards.answers import sources_of
from llmrl.rewards.no_repeat import NoRepeat
from llmrl.rollout.ask import DONT_KNOW
from llmrl.rollout.contexts import with_context
from tests.retrieval import quiet

PROMPTING = PromptingConfig(source="[{number}] {text}", question="Question: {question}", answer="Answer:")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contexts") / "index"
    ingest(
        IngestConfig(docs="packaged:demo/docs", index=str(folder), retriever=RetrieverConfig(name="bm25")), Progress(quiet())
    )
    return folder


@pytest.fixture(scope="module")
def questions() -> PromptSplit:
    return load_prompts(
        PromptsConfig(source=PromptSource.jsonl, path="packaged:demo/questions.jsonl", field="question", gold_field="path")
    )


def config(index: Path, **context: object) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(name_or_path="packaged:tiny"), reward={"no_repeat": NoRepeat()}, ppo=PPOConfig(),
        retriever=RetrieverConfig(name="bm25", index=str(index), k=2), prompting=PROMPTING,
        context=ContextConfig(**context),  # type: ignore[arg-type]
    )  # fmt: skip


def cites(prompt: Prompt, before: Prompt) -> bool:
    """Whether the reference answer is the one before, with the number of a source that holds it."""
    sources = sources_of(prompt.context or "")
    holding = [number for number, text in sources.items() if " ".join((before.answer or "").split()) in " ".join(text.split())]
    return prompt.answer in {f"{before.answer} [{number}]" for number in holding}


def test_questions_of_one_document_are_on_one_side(questions: PromptSplit) -> None:
    trained = {path for prompt in questions.train for path in prompt.gold}
    held_out = {path for prompt in questions.held_out for path in prompt.gold}
    assert trained
    assert held_out
    assert not trained & held_out


@pytest.mark.parametrize("kind", list(ContextKind))
def test_each_kind_holds_what_it_says(index: Path, questions: PromptSplit, tiny: LanguageModel, kind: ContextKind) -> None:
    only = {each.value: float(each is kind) for each in ContextKind}
    made = with_context(questions, config(index, held_out=kind, **only), tiny)
    answers = {prompt.id: prompt for prompt in [*questions.train, *questions.held_out]}
    for prompt in [*made.split.train, *made.split.held_out]:
        before = answers[prompt.id]
        assert prompt.kind == kind.value
        assert prompt.text.count(f"Question: {before.text}") == 1
        assert prompt.context is not None
        assert prompt.context in prompt.text or kind is ContextKind.none
        holds = before.answer is not None and " ".join(before.answer.split()) in " ".join(prompt.context.split())
        if kind in (ContextKind.none, ContextKind.removed, ContextKind.shuffled):
            assert prompt.answer == DONT_KNOW
        elif kind is ContextKind.gold and before.gold:
            assert holds
            assert cites(prompt, before)
        elif holds:
            assert cites(prompt, before)
        if kind is ContextKind.none:
            assert prompt.context == ""
    assert made.counts[kind.value] == len(questions.train)


def test_a_mixture_is_the_same_every_time_and_near_its_weights(
    index: Path, questions: PromptSplit, tiny: LanguageModel
) -> None:
    weights = {"retrieved": 1.0, "gold": 2.0, "removed": 1.0}
    once, again = (with_context(questions, config(index, **weights), tiny) for _ in range(2))
    assert once == again
    kinds = [prompt.kind for prompt in once.split.train]
    assert set(kinds) == set(weights)
    assert kinds.count("gold") > kinds.count("removed")
    assert {prompt.kind for prompt in once.split.held_out} == {"retrieved"}


def test_prompts_fit_the_window(index: Path, questions: PromptSplit, tiny: LanguageModel) -> None:
    made = with_context(questions, config(index, held_out=ContextKind.gold), tiny)
    for prompt in [*made.split.train, *made.split.held_out]:
        assert len(tiny.tokenizer(prompt.text)["input_ids"]) + 32 <= 512  # type: ignore[arg-type]


ROWS = [
    {"question": "How fast is sound in water?", "answer": "1,480 metres per second", "path": "b/sound.txt"},
    {"question": "What makes dough rise?", "answer": "No.", "path": "bread.txt"},
    {"question": "Which year was it?", "answer": "The year was 1", "path": None},
    {"question": "Which metal is red?", "answer": "Copper is red", "path": None},
]


def small(tmp_path: Path, rows: list[dict], **context: float) -> dict[str, Prompt]:
    """Prompts by question, from four documents of which two say the same."""
    texts = {
        "a/sound.txt": "Sound travels at 1,480 metres per second in water.", "bread.txt": "Yeast makes dough rise.",
        "year.txt": "The year was 14 by the old count.", "copper.txt": "Copper is red, as metals go.",
    }  # fmt: skip
    texts["b/sound.txt"] = texts["a/sound.txt"]
    for name, text in texts.items():
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(text, encoding="utf-8")
    made = IngestConfig(docs=str(tmp_path / "docs"), index=str(tmp_path / "index"), retriever=RetrieverConfig(name="bm25"))
    ingest(made, Progress(quiet()))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = load_prompts(PromptsConfig(source=PromptSource.jsonl, path=str(tmp_path / "rows.jsonl"), field="question"))
    found = with_context(asked, config(tmp_path / "index", held_out=ContextKind(next(iter(context))), **context), _tiny())
    return {prompt.text.split("Question: ")[1].split("\n")[0]: prompt for prompt in [*found.split.train, *found.split.held_out]}


def _tiny() -> LanguageModel:
    return load(ModelConfig(name_or_path="packaged:tiny"))


def test_what_holds_an_answer(tmp_path: Path) -> None:
    found = small(tmp_path, ROWS, retrieved=1)
    assert found["How fast is sound in water?"].answer == "1,480 metres per second [1]"  # found as a/sound.txt
    assert found["What makes dough rise?"].answer == DONT_KNOW  # "No." is in every text, and says nothing
    assert found["Which year was it?"].answer == DONT_KNOW  # 14 is not 1
    assert found["Which metal is red?"].answer == "Copper is red [1]"  # whose document is not known


def test_what_is_removed_is_gone_under_every_name(tmp_path: Path) -> None:
    found = small(tmp_path, ROWS, removed=1)
    assert "1,480" not in found["How fast is sound in water?"].text
    assert "Copper is red" not in found["Which metal is red?"].text
    assert {prompt.answer for prompt in found.values()} == {DONT_KNOW}


def test_a_document_that_the_index_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the index has no document 'sounds\.txt'"):
        small(tmp_path, [*ROWS, {"question": "Why?", "answer": "So", "path": "sounds.txt"}], retrieved=1)

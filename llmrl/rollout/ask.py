"""Questions answered from an index by the model that is named, with the places that the answer goes by."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from llmrl.config import AskConfig
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel, load
from llmrl.prompts import Prompt
from llmrl.retrieval.context import Chat, Grounded, Source, ground, plain
from llmrl.retrieval.progress import Progress
from llmrl.retrieval.questions import Question, read_questions
from llmrl.retrieval.search import Searcher
from llmrl.rewards.grounding import abstains, best_source, citations, content_words, supported_share
from llmrl.rollout.sampler import sample
from llmrl.rollout.stream import as_it_comes
from llmrl.rollout.write import write_rows

DONT_KNOW = "I don't know."


@dataclass(frozen=True)
class Answer:
    """What was answered, and why it may be believed."""

    question: Question
    text: str  # "I don't know." where that is all that may be said
    said: str  # the model's own words; empty where it was not asked
    sources: list[Source]  # that stood in the prompt
    cited: list[int]  # numbers of sources that the answer cites
    supported_by: list[int]  # numbers of the sources that its sentences go by, found by their words
    grounded: float  # share of its content words that stand in the sources
    abstained: str | None  # why the answer is "I don't know"

    def record(self) -> dict[str, Any]:
        """As a JSON line."""
        return {
            "id": self.question.id, "question": self.question.text, "answer": self.text, "said": self.said,
            "abstained": self.abstained, "said_grounded": round(self.grounded, 4),
            "sources": [
                {
                    "number": source.number, "path": source.hit.chunk.path, "heading": source.hit.chunk.heading,
                    "start": source.hit.chunk.start, "end": source.hit.chunk.end, "score": round(source.hit.score, 4),
                    "cited": source.number in self.cited, "supports": source.number in self.supported_by,
                }
                for source in self.sources
            ],
        }  # fmt: skip


class Asker:
    """Index, embedder and model, loaded once."""

    def __init__(
        self, config: AskConfig, language_model: LanguageModel | None = None, searcher: Searcher | None = None
    ) -> None:
        """With a model or a searcher that is there already, that one. Raises UserError."""
        config.retriever.index = config.index
        self.config, self.searcher = config, searcher or Searcher(config.retriever)
        self.language_model = language_model or load(config.model)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.chat = chat_of(self.language_model) if config.prompting.chat else None

    def ground(self, question: str) -> Grounded:
        """The question with what was found for it."""
        language_model, window = self.language_model, self.language_model.context_length
        return ground(
            question, self.searcher.search(question), self.config.prompting,
            count=lambda text: len(language_model.tokenizer(text)["input_ids"]),  # type: ignore[arg-type]
            room=None if window is None else window - self.config.rollout.max_new_tokens,
            control_tokens=control_tokens(language_model), chat=self.chat,
        )  # fmt: skip

    def answer(self, questions: Sequence[Question], on_text: Callable[[str], None] | None = None) -> list[Answer]:
        """All at once. `on_text` is told what is said as it is said; with one question only."""
        grounded = [self.ground(question.text) for question in questions]
        asked = [number for number, each in enumerate(grounded) if each.sources]  # with no source there is nothing to say
        said = dict.fromkeys(range(len(questions)), "")
        if asked:
            prompts = [Prompt(grounded[number].prompt, id=questions[number].id) for number in asked]
            rollout = sample(
                self.language_model, prompts, self.config.rollout, self.generator, greedy=self.config.greedy,
                on_token=as_it_comes(self.language_model, on_text) if on_text is not None else None,
            )  # fmt: skip
            said |= {number: text.strip() for number, text in zip(asked, rollout.texts, strict=True)}
        return [self._judged(question, grounded[number], said[number]) for number, question in enumerate(questions)]

    def answer_without(self, question: Question, on_text: Callable[[str], None] | None = None) -> str:
        """What the model says to the question alone, with no source."""
        prompt = plain(question.text, self.config.prompting, control_tokens(self.language_model), self.chat)
        rollout = sample(
            self.language_model, [Prompt(prompt, id=question.id)], self.config.rollout, self.generator,
            greedy=self.config.greedy, on_token=as_it_comes(self.language_model, on_text) if on_text is not None else None,
        )  # fmt: skip
        return rollout.texts[0].strip()

    def _judged(self, question: Question, grounded: Grounded, said: str) -> Answer:
        texts = [source.text for source in grounded.sources]
        share = supported_share(said, "\n".join(texts), question.text) if said else 0.0
        asked = set(content_words(question.text))
        numbers = {source.number for source in grounded.sources}
        cited = sorted(set(citations(said)) & numbers)
        found = {best_source(sentence, texts) for sentence in said.replace("\n", ". ").split(". ")}
        supported_by = sorted(grounded.sources[index].number for index in found if index is not None)
        reason = None
        if not grounded.sources:
            reason = "nothing was found"
        elif not said or abstains(said):
            reason = "the model says so"
        elif all(word in asked for word in content_words(said)):
            reason = "what the model said says no more than the question"
        elif share < self.config.min_grounded:
            reason = f"only {share:.0%} of what the model said stands in its sources"
        return Answer(
            question, DONT_KNOW if reason else said, said, grounded.sources, [] if reason else cited,
            [] if reason else supported_by, share, reason,
        )  # fmt: skip


def chat_of(language_model: LanguageModel) -> Chat | None:
    """The model's chat template for one thing said by the user; None where it has none."""
    tokenizer = language_model.tokenizer
    if not tokenizer.chat_template:
        return None

    def chat(told: str) -> str:
        messages = [{"role": "user", "content": told}]
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        begin = tokenizer.bos_token
        if isinstance(begin, str) and text.startswith(begin) and tokenizer("")["input_ids"]:
            text = text.removeprefix(begin)  # tokenising puts it there again
        return text

    return chat


def control_tokens(language_model: LanguageModel) -> list[str]:
    """Texts that the tokenizer takes for tokens of their own: what begins a turn, what ends a text."""
    return [str(token.content) for token in language_model.tokenizer.added_tokens_decoder.values()]


def ask(config: AskConfig) -> int:
    """Answer one question, a file of them, or what is typed. Raises UserError."""
    if config.threads:
        torch.set_num_threads(config.threads)
    console = Console(highlight=False, soft_wrap=True)
    if config.question is not None and not str(config.question).strip():
        raise UserError("the question is empty")
    questions = read_questions(config.file, option="file") if config.file is not None else None
    if questions is None and config.question is None and not sys.stdin.isatty():
        questions = _typed(sys.stdin.read().splitlines())
    asker = Asker(config)
    if config.question is not None:
        _show(asker, Question(str(config.question), "1"), console, config.out)
    elif questions is not None:
        _answer_all(asker, questions, config, console)
    else:
        _converse(asker, console)
    return 0


def _typed(lines: Sequence[str]) -> list[Question]:
    questions = [Question(line.strip(), str(number)) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise UserError("no question: give 'question=\"...\"', file=questions.jsonl, or type one")
    return questions


def _converse(asker: Asker, console: Console) -> None:
    console.print("Ask, or press Enter to leave.", style="dim")
    while True:
        try:
            line = console.input("[bold]> [/bold]")
        except EOFError:
            return
        if not line.strip():
            return
        try:
            _show(asker, Question(line.strip(), "1"), console, None)
        except UserError as error:
            console.print(str(error), style="yellow", markup=False)


def _answer_all(asker: Asker, questions: Sequence[Question], config: AskConfig, console: Console) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        with Progress(console).questions(len(questions)) as step:
            for start in range(0, len(questions), config.batch_size):
                for row in _records(asker, questions[start : start + config.batch_size]):
                    yield row
                    step(1)

    if config.out is not None:
        write_rows(Path(config.out).expanduser(), rows())
        console.print(f"{len(questions)} answers written to {config.out}", markup=False)
    else:
        for row in rows():
            print(json.dumps(row, ensure_ascii=False))


def _records(asker: Asker, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Rows of a batch; one that can't be asked says why, and the others are answered all the same."""
    try:
        return [answer.record() for answer in asker.answer(questions)]
    except UserError as error:
        if len(questions) == 1:
            return [{"id": questions[0].id, "question": questions[0].text, "answer": None, "error": str(error)}]
        return [row for question in questions for row in _records(asker, [question])]


def _show(asker: Asker, question: Question, console: Console, out: str | None) -> None:
    """Text as it comes on a terminal; then the sources, those that the answer goes by marked."""
    streaming = console.is_terminal and out is None
    answer = asker.answer([question], (lambda text: console.print(Text(text), end="")) if streaming else None)[0]
    if out is not None:
        write_rows(Path(out).expanduser(), iter([answer.record()]))
        return
    if streaming and answer.said:
        console.print()
    if not streaming or answer.abstained:
        console.print(Text(answer.text, style="bold" if answer.abstained else ""))
    if answer.abstained:
        console.print(f"({answer.abstained})", style="dim", markup=False)
    if answer.sources:
        console.print()
    for source in answer.sources:
        chunk, used = source.hit.chunk, source.number in {*answer.cited, *answer.supported_by}
        how = "cited" if source.number in answer.cited else "shares words" if used else ""
        told = f"[{source.number}] {chunk.path}" + (f", {chunk.heading}" if chunk.heading else "")
        console.print(
            Text(told, style="cyan" if used else "dim")
            + Text(f", characters {chunk.start} to {chunk.end}, score {source.hit.score:.2f}", style="dim")
            + Text(f"  {how}" if how else "", style="green")
        )

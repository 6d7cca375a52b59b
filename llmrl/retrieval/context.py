"""What was found, as a prompt: whole chunks, best first, as many as fit."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from llmrl.config import PromptingConfig
from llmrl.errors import UserError
from llmrl.retrieval.search import Hit
from llmrl.rewards.grounding import escaped


@dataclass(frozen=True)
class Source:
    """A chunk in a prompt, under the number that an answer cites it by."""

    number: int  # from 1
    hit: Hit
    text: str  # as it stands in the prompt


@dataclass(frozen=True)
class Grounded:
    """A question with its sources, as the text of a prompt."""

    question: str
    prompt: str
    sources: list[Source]

    @property
    def context(self) -> str:
        return "\n\n".join(source.text for source in self.sources)


Chat = Callable[[str], str]
"""What a user says -> the prompt, by the model's chat template."""


def ground(
    question: str, hits: Sequence[Hit], prompting: PromptingConfig, *, count: Callable[[str], int], room: int | None,
    control_tokens: Collection[str] = (), chat: Chat | None = None,
) -> Grounded:  # fmt: skip
    """The prompt with as many hits as fit into `room` tokens as `count` counts them (None: all), best first, whole.

    A hit that does not fit is left out, and the next is tried. What was retrieved and asked is escaped: it can't speak for the
    template or be taken for a citation. Raises UserError where the question alone is too long.
    """

    openings = [text for text in (prompting.question.partition("{")[0].strip(), prompting.answer.strip()) if text]

    def safe(text: str) -> str:
        return escaped(text, control_tokens, openings)

    def made(sources: Sequence[Source]) -> str:
        return _prompt(question, sources, prompting, control_tokens, chat)

    if room is not None and count(made([])) > room:
        raise UserError(f"the question leaves no room in the model's window: {count(made([]))} tokens, and {room} are free")
    sources: list[Source] = []
    for hit in hits:
        number = len(sources) + 1
        text = prompting.source.format(
            number=number, path=safe(" ".join(hit.chunk.path.split())), heading=safe(" ".join(hit.chunk.heading.split())),
            text=safe(hit.chunk.text),
        )  # fmt: skip
        source = Source(number, hit, text)
        if room is None or count(made([*sources, source])) <= room:
            sources.append(source)
    return Grounded(question, made(sources), sources)


def plain(question: str, prompting: PromptingConfig, control_tokens: Collection[str] = (), chat: Chat | None = None) -> str:
    """The prompt of a question by itself, with no word of sources: what a model says that was given none."""
    asked = prompting.question.format(question=escaped(question, control_tokens))
    return chat(asked) if chat is not None else f"{asked}\n{prompting.answer}" if prompting.answer else asked


def _prompt(
    question: str, sources: Sequence[Source], prompting: PromptingConfig, control_tokens: Collection[str], chat: Chat | None
) -> str:
    held = "\n\n".join(source.text for source in sources) or prompting.nothing_found
    asked = prompting.question.format(question=escaped(question, control_tokens))
    told = "\n\n".join(part for part in (prompting.instruction, held, asked) if part)
    return chat(told) if chat is not None else f"{told}\n{prompting.answer}" if prompting.answer else told

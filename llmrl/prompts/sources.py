"""Prompts from the package, a text file, JSON lines or the sentences of a text; split by a fixed hash."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrl.config import ASSETS, PromptsConfig, PromptSource, packaged
from llmrl.errors import UserError

OPENINGS = ASSETS / "openings.txt"
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")


@dataclass(frozen=True)
class Prompt:
    """One prompt. `context` is retrieved text that already stands in `text`; `answer` a reference answer, if there is one."""

    text: str
    id: str
    kind: str = ""
    answer: str | None = None
    context: str | None = None
    gold: tuple[str, ...] = ()  # documents that answer it


@dataclass(frozen=True)
class PromptSplit:
    """Prompts to train on, and prompts that are never trained on; neither is empty."""

    train: list[Prompt]  # in the order of their source
    held_out: list[Prompt]  # in the order of their hash, so that the first few are a fair sample of all


def load_prompts(config: PromptsConfig) -> PromptSplit:
    """Read and split. Raises UserError if the file is missing, unreadable or holds too few prompts."""
    unique = {prompt.text: prompt for prompt in read_prompts(config)}
    return split(list(unique.values()), config.held_out_share, config.path or "the packaged openings")


def read_prompts(config: PromptsConfig, option: str = "prompts.path") -> list[Prompt]:
    """All prompts of a source in its order. Raises UserError, which names the file as `option` if it can't be read."""
    path = OPENINGS if config.source is PromptSource.openings else packaged(config.path or "")
    text = _read(path, option)
    readers = {
        PromptSource.openings: _openings,
        PromptSource.text: _lines,
        PromptSource.jsonl: lambda text: _json_lines(text, path, config),
        PromptSource.sentences: lambda text: _sentences(text, config.words),
    }
    return list(readers[config.source](text))


def split(prompts: list[Prompt], held_out_share: float, where: str) -> PromptSplit:
    """By the hash of each text, or of the document that answers it, so that a prompt keeps its side when others come or go.

    Questions that share a document that answers are all on one side, and those that share one with any of these.

    Raises UserError for fewer than two prompts; where the hash would leave a side empty, the prompt nearest to it moves over.
    """
    if len(prompts) < 2:
        found = "no prompts" if not prompts else "only one prompt"
        raise UserError(f"{where} holds {found}; at least two are needed, one to train on and one held out")
    decides = _deciding_documents(prompts)

    def place(prompt: Prompt) -> float:
        return fraction(decides[prompt.gold[0]] if prompt.gold else prompt.text)

    ordered = sorted(prompts, key=lambda prompt: (place(prompt), fraction(prompt.text)))
    count = sum(place(prompt) < held_out_share for prompt in ordered)
    chosen = {prompt.text for prompt in ordered[: min(max(count, 1), len(ordered) - 1)]}
    return PromptSplit(
        train=[prompt for prompt in prompts if prompt.text not in chosen],
        held_out=[prompt for prompt in ordered if prompt.text in chosen],
    )


def _deciding_documents(prompts: Sequence[Prompt]) -> dict[str, str]:
    """For each document, the first by name of those that questions bind together with it."""
    decides: dict[str, str] = {}

    def first(path: str) -> str:
        while decides.setdefault(path, path) != path:
            path = decides[path]
        return path

    for prompt in prompts:
        heads = {first(path) for path in prompt.gold}
        for head in heads:
            decides[head] = min(heads)
    return {path: first(path) for path in list(decides)}


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{option}={path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{option}={path} is a folder; name a file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{option}={path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{option}={path} cannot be read: {error.strerror}") from None


def _openings(text: str) -> Iterator[Prompt]:
    kind = ""
    for line in text.splitlines():
        if line.startswith("# "):
            kind = line[2:].strip()
        elif line.strip():
            yield Prompt(text=line, id=f"{kind}-{_name(line)}", kind=kind)


def _lines(text: str) -> Iterator[Prompt]:
    for line in text.splitlines():
        if line.strip():
            yield Prompt(text=line.rstrip(), id=_name(line.rstrip()))


def _json_lines(text: str, path: Path, config: PromptsConfig) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from None
        if not isinstance(row, dict) or config.field not in row:
            keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise UserError(f"{where}: no key {config.field!r} (found: {keys}); set prompts.field=...")
        prompt = row[config.field]
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"{where}: {config.field!r} must be text that is not blank, not {prompt!r}")
        answer, gold = row.get(config.answer_field), row.get(config.gold_field) or ()
        yield Prompt(
            text=prompt, id=str(row.get(config.id_field, _name(prompt))), answer=None if answer is None else str(answer),
            gold=tuple(map(str, gold)) if isinstance(gold, list | tuple) else (str(gold),),
        )  # fmt: skip


def _sentences(text: str, words: int) -> Iterator[Prompt]:
    """The first words of every sentence that goes on after them."""
    for sentence in _SENTENCE_END.split(" ".join(text.split())):
        parts = sentence.split()
        if len(parts) > words:
            opening = " ".join(parts[:words])
            yield Prompt(text=opening, id=_name(opening))

"""Documents cut into chunks that follow headings, paragraphs and sentences, each of which knows where it stands.

A chunk is `text[start:end]`, never longer than the encoder reads; neighbours in one section share some sentences.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llmrl.retrieval.documents import Heading

Spans = Callable[[str], Sequence[tuple[int, int]]]
"""A text -> where each of its tokens begins and ends, in characters."""

HEADING_JOINT = " > "
"""Between the titles of a heading path where it is one text."""
_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+")
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Chunk:
    start: int  # characters into the document's text
    end: int
    headings: tuple[str, ...]  # titles from the outermost heading to the one it stands under


@dataclass(frozen=True)
class _Piece:
    """What is never cut: a sentence, or a part of one that is too long."""

    start: int
    end: int
    tokens: int
    ends_paragraph: bool


def word_spans(text: str) -> list[tuple[int, int]]:
    """Words and punctuation marks as tokens, where no encoder has a say."""
    return [found.span() for found in _WORD.finditer(text)]


def cut(text: str, headings: Sequence[Heading], spans: Spans, most: int, overlap: int) -> list[Chunk]:
    """Chunks of at most `most` tokens as `spans` counts them, in their order; all but white space stands in at least one.

    A chunk never crosses a heading. It ends with a paragraph where one ends in its second half, else with a sentence; a longer
    sentence is cut between words. The next chunk of the section begins with up to `overlap` tokens of whole sentences of it,
    less than half of `most`.
    """
    found = []
    for start, end, path in _sections(text, headings):
        pieces = list(_pieces(text, start, end, spans, most))
        for first, last in _packed(pieces, most, overlap):
            found += [Chunk(*place, path) for place in _fitting(text, pieces[first].start, pieces[last - 1].end, spans, most)]
    return found


def _sections(text: str, headings: Sequence[Heading]) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """(start, end, titles above); a heading with nothing below it goes with the next."""
    path: list[Heading] = []
    start = 0
    for heading in headings:
        if text[max(start, path[-1].end if path else 0) : heading.start].strip():
            yield start, heading.start, _titles(path)
            start = heading.start
        path = [above for above in path if above.level < heading.level] + [heading]
    if text[start:].strip():
        yield start, len(text), _titles(path)


def _titles(path: Sequence[Heading]) -> tuple[str, ...]:
    return tuple(heading.title for heading in path)


def _pieces(text: str, start: int, end: int, spans: Spans, most: int) -> Iterator[_Piece]:
    for first, last in _between(_BLANK_LINES, text, start, end):
        sentences = [
            piece
            for sentence in _between(_SENTENCE_END, text, first, last)
            for piece in _cut_long(text, *sentence, spans, most)
        ]
        for number, (left, right, tokens) in enumerate(sentences, 1):
            yield _Piece(left, right, tokens, number == len(sentences))


def _between(separator: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Stretches that end with a match of `separator`, without the white space around them."""
    at = start
    for found in separator.finditer(text, start, end):
        yield from _stripped(text, at, found.end())
        at = found.end()
    yield from _stripped(text, at, end)


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    inside = text[start:end]
    if inside.strip():
        yield start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())


def _cut_long(text: str, start: int, end: int, spans: Spans, most: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, tokens) of a sentence, or of its parts of at most `most` tokens, between words where there are any."""
    tokens = spans(text[start:end])
    first = 0
    while len(tokens) - first > most:
        last = next(
            (at for at in range(first + most, first + most // 2, -1) if text[start + tokens[at][0] - 1].isspace()), first + most
        )
        for left, right in _stripped(text, start + tokens[first][0] if first else start, start + tokens[last][0]):
            yield left, right, last - first
        first = last
    yield start + tokens[first][0] if first else start, end, len(tokens) - first


def _packed(pieces: Sequence[_Piece], most: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Ranges of pieces: as many as fit, then from a little before where that ended."""
    first = 0
    while first < len(pieces):
        last, held = first, 0
        while last < len(pieces) and (last == first or held + pieces[last].tokens <= most):
            held += pieces[last].tokens
            last += 1
        if last < len(pieces):
            last = _at_paragraph(pieces, first, last, most)
        yield first, last
        if last == len(pieces):
            return
        first, shared = last, 0
        room = min(overlap, most - pieces[last].tokens)
        while first > 0 and shared + pieces[first - 1].tokens <= room:
            first -= 1
            shared += pieces[first].tokens


def _at_paragraph(pieces: Sequence[_Piece], first: int, last: int, most: int) -> int:
    """Where the last paragraph ends, if that leaves a chunk at least half full."""
    held = sum(piece.tokens for piece in pieces[first:last])
    for at in range(last, first, -1):
        if 2 * held < most:
            break
        if pieces[at - 1].ends_paragraph:
            return at
        held -= pieces[at - 1].tokens
    return last


def _fitting(text: str, start: int, end: int, spans: Spans, most: int) -> Iterator[tuple[int, int]]:
    """The place itself; in halves where its parts together have more tokens than they had alone."""
    if len(spans(text[start:end])) <= most or end - start < 2:
        yield start, end
        return
    middle = (start + end) // 2
    space = max(text.rfind(" ", start + 1, middle), text.rfind("\n", start + 1, middle))
    at = space if space > start else middle
    for left, right in (*_stripped(text, start, at), *_stripped(text, at, end)):
        yield from _fitting(text, left, right, spans, most)

"""Where the headings of Markdown and reStructuredText stand in a text."""

import re
import string

from llmrl.retrieval.documents import Heading

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+|$)")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(?:(?:[-*+]|\d{1,9}[.)]) +)*(`{3,}(?=[^`]*$)|~{3,})")  # may open in a list item
_NO_PARAGRAPH = re.compile(  # blank, code, quote, heading, fence, list item, a tag alone or a rule
    r"\s*$| {4}|\t| {0,3}(?:>|#{1,6}(?:\s|$)|```|~~~|(?:[-*+]|\d{1,9}[.)])(?:\s|$)|<[^<>]*>\s*$"
    r"|([-*_])[ \t]*(?:\1[ \t]*){2,}$)"
)
_FRONT_KEY = re.compile(r"([A-Za-z_][\w.-]*):(?:[ \t]+(.*))?$")
_NO_RST_TITLE = (".. ", "- ", "* ", "+ ", "| ")  # directive or comment, list items, line block or table


def markdown_headings(text: str) -> tuple[list[Heading], dict[str, str]]:
    """Headings with # before or a line under them, outside of fenced code; and the plain values of YAML that comes first."""
    metadata, body = _front_matter(text)
    headings: list[Heading] = []
    fence, after_blank = "", True
    above: tuple[int, str] | None = None  # a line of its own, which becomes a heading if the next underlines it
    for start, line in _lines(text):
        if start < body:
            continue
        words, end = line.strip(), start + len(line)
        if fence:
            if set(words) == {fence[0]} and len(words) >= len(fence):
                fence = ""
        elif opening := _FENCE.match(line):
            fence = opening[1]
        elif above and (underline := _SETEXT.fullmatch(line)):
            headings.append(Heading(above[0], end, 1 if "=" in underline[1] else 2, above[1]))
        elif hashes := _ATX.match(line):
            title = line[hashes.end() :].strip()
            without = title.rstrip("#")
            if not without or without[-1].isspace():
                title = without.rstrip()
            if title:
                headings.append(Heading(start, end, len(hashes[1]), title))
        above = (start, words) if after_blank and not _NO_PARAGRAPH.match(line) else None
        after_blank = not words
    return headings, metadata


def _front_matter(text: str) -> tuple[dict[str, str], int]:
    """The plain values of the YAML that Markdown may begin with, and where it ends.

    What begins with a rule, and no key after it, has none.
    """
    if not text.startswith("---"):
        return {}, 0
    places = _lines(text)
    lines = [line for _, line in places]
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), 0)
    first = next((line for line in lines[1:end] if line.strip() and not line.startswith("#")), "")
    if lines[0].rstrip() != "---" or not end or not _FRONT_KEY.match(first):
        return {}, 0
    values = {}
    for line in lines[1:end]:
        found = _FRONT_KEY.match(line)
        value = (found[2] or "").strip() if found else ""
        if found and value and value[0] in "\"'":
            values[found[1]] = value[1:-1] if len(value) > 1 and value[-1] == value[0] else value
        elif found and value and value[0] not in "[{|>&*!#":  # lists, maps, blocks, anchors, tags and comments
            values[found[1]] = value.split(" #")[0].rstrip()
    return values, places[end][0] + len(lines[end])


def rst_headings(text: str) -> list[Heading]:
    """Titles with a line of punctuation under, or over and under them; a new style is one level deeper than the last new."""
    headings: list[Heading] = []
    styles: list[tuple[str, bool]] = []
    lines = _lines(text)
    at, after_blank = 0, True
    while at < len(lines):
        rows = [line for _, line in lines[at : at + 3]]
        count = _rst_title_lines(rows) if after_blank else 0
        if count:
            start, end = lines[at][0], lines[at + count - 1][0] + len(rows[count - 1])
            style = (rows[count - 1][0], count == 3)
            if style not in styles:
                styles.append(style)
            headings.append(Heading(start, end, styles.index(style) + 1, rows[count - 2].strip()))
        after_blank = bool(count) or not rows[0].strip()
        at += count or 1
    return headings


def _rst_title_lines(rows: list[str]) -> int:
    """3 if the rows begin with a title that has lines over and under it, 2 for a title with one under it, otherwise 0."""
    if len(rows) == 3 and _is_run(rows[0]) and rows[0].rstrip() == rows[2].rstrip() and _underlines(rows[2], rows[1]):
        return 3
    plain = len(rows) >= 2 and not rows[0][:1].isspace() and not rows[0].startswith(_NO_RST_TITLE)
    return 2 if plain and _underlines(rows[1], rows[0]) else 0


def _is_run(line: str) -> bool:
    """Whether a line is one punctuation character over and over."""
    return line[:1] in string.punctuation and len(set(line.rstrip())) == 1


def _underlines(line: str, title: str) -> bool:
    return _is_run(line) and not _is_run(title) and 0 < len(title.strip()) <= len(line.rstrip())


def _lines(text: str) -> list[tuple[int, str]]:
    """Each line with the offset of its first character."""
    lines, start = [], 0
    for line in text.split("\n"):
        lines.append((start, line))
        start += len(line) + 1
    return lines

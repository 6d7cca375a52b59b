"""Web pages to text: what is for reading, with its headings and the breaks a reader would see."""

import warnings
from typing import Any

from bs4 import BeautifulSoup
from bs4.dammit import EncodingDetector
from bs4.element import NavigableString, PreformattedString, Tag
from bs4.exceptions import ParserRejectedMarkup

from llmrl.errors import one_line
from llmrl.retrieval.documents import Heading, Unreadable
from llmrl.retrieval.encodings import clean, decode

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LEFT_OUT = frozenset("script style noscript template nav title form button svg".split())
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer "
    "header hgroup hr html legend main p pre section summary table".split()
)


def read_page(data: bytes) -> tuple[str, list[Heading], str]:
    """(text, headings, title of the head) of an HTML page, its main part where it has one. Raises Unreadable."""
    declared = EncodingDetector.find_declared_encoding(data, is_html=True) or ""
    declared = "windows-1252" if declared in ("iso-8859-1", "us-ascii") else declared  # as browsers take them
    with warnings.catch_warnings():  # bs4 wonders at XML and at short texts
        warnings.simplefilter("ignore")
        try:
            soup = BeautifulSoup(decode(data, declared), "html.parser")
        except ParserRejectedMarkup as error:
            raise Unreadable(f"broken html: {one_line(error)}") from None
    main = soup.find(lambda tag: (tag.name == "main" or tag.get("role") == "main") and not _is_left_out(tag))
    page = _Page()
    page.add(main or soup)
    text = "".join(page.parts)
    headings = [Heading(start, end, level, text[start:end]) for start, end, level in page.headings]
    titles = (tag.get_text() for tag in soup.find_all("title") if not tag.find_parent("svg"))
    return text, headings, clean(" ".join(next(titles, "").split()))


def _is_left_out(tag: Tag) -> bool:
    """Whether a part of a page is not for reading. The head needs no rule: what it holds besides is no text."""
    permalink = tag.name == "a" and "headerlink" in tag.get_attribute_list("class")
    return tag.name in _LEFT_OUT or permalink or tag.has_attr("hidden") or str(tag.get("aria-hidden")).lower() == "true"


class _Page:
    """Builds the text of a page. What belongs between two words is held back until the second one comes."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.headings: list[tuple[int, int, int]] = []  # start, end, level
        self._length = 0
        self._newlines, self._cells, self._mark, self._space = 0, 0, "", False  # held back
        self._fresh = False  # at the beginning of a list item or cell: its first paragraph stands on the same line
        self._lists, self._first_cell = 0, False  # how many lists are open; whether the next cell begins a row
        self._level, self._heading_start = 0, -1  # of the open heading
        self._raw: list[str] | None = None  # the text of the open <pre>

    def add(self, root: Tag) -> None:
        """Add all text below a tag. Not recursive, as pages may nest deeper than Python does."""
        to_do: list[tuple[Any, bool]] = [(root, False)]
        while to_do:
            node, done = to_do.pop()
            if done:
                self._close(node.name)
            elif isinstance(node, Tag) and not _is_left_out(node):
                self._open(node.name)
                to_do.append((node, True))
                to_do.extend((child, False) for child in reversed(node.contents))
            elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):  # no comment or the like
                self._text(clean(node))

    def _text(self, text: str) -> None:
        if self._raw is not None:
            self._raw.append(text)
            return
        words = " ".join(text.split())
        self._space = self._space or text[:1].isspace()
        if words:
            self._write(words)
            self._space = text[-1].isspace()

    def _open(self, name: str) -> None:
        if self._raw is not None or name == "br":
            self._open_break(name)
        elif name in _HEADINGS:
            self._gap(2)
            self._level, self._heading_start = _HEADINGS[name], -1
        elif name == "li":
            self._gap(1)
            self._mark, self._fresh = "- ", True
        elif name == "tr":
            self._gap(1)
            self._cells, self._first_cell, self._fresh = 0, True, True
        elif name in ("td", "th"):
            self._end_part(0)
            self._cells += not self._first_cell
            self._first_cell, self._fresh = False, True
        elif name in ("ul", "ol"):
            (self._end_part if self._lists else self._gap)(1 if self._lists else 2)
            self._lists += 1
        elif name in _BLOCKS:
            self._gap(2)
            self._raw = [] if name == "pre" and not self._level else None

    def _close(self, name: str) -> None:
        if self._raw is not None:
            self._close_raw(name)
        elif name in _HEADINGS:
            self._gap(2)
            self._level = 0
        elif name == "li":
            self._end_part(1)
            self._mark = ""
        elif name in ("td", "th"):
            self._end_part(0)
            self._space = True
        elif name in ("tr", "ul", "ol", "table"):
            self._lists -= name in ("ul", "ol")
            self._cells, self._fresh = 0, False
            self._gap(1 if name == "tr" or (name != "table" and self._lists) else 2)
        elif name in _BLOCKS:
            self._gap(2)

    def _gap(self, newlines: int) -> None:
        """The next word stands on a new line, or after a blank one. A block ends a heading, as browsers see it."""
        if self._level and self._heading_start >= 0:
            self.headings.append((self._heading_start, self._length, self._level))
            self._level, self._heading_start = 0, -1
        if not self._fresh:
            self._newlines = max(self._newlines, newlines)

    def _end_part(self, newlines: int) -> None:
        """The end of a list item or cell; the gap after its last paragraph would tear the list or table apart."""
        self._gap(0)
        after_heading = bool(self.headings) and self.headings[-1][1] == self._length
        if not self._fresh:
            self._newlines = 2 if after_heading else newlines

    def _open_break(self, name: str) -> None:
        if self._raw is not None:
            self._raw.append("\n" if name == "br" else "")
        elif self._level:
            self._space = True  # a title is one line
        elif not self._fresh:
            self._newlines = min(self._newlines + 1, 2)

    def _close_raw(self, name: str) -> None:
        raw = self._raw or []
        if name in _BLOCKS and not "".join(raw[-1:]).endswith("\n"):
            raw.append("\n")  # some highlighters make each line a block
        if name == "pre":
            self._raw = None
            text = "".join(raw).strip("\n")
            if text.strip():
                self._write(text)
            self._gap(2)

    def _write(self, text: str) -> None:
        """Write what was held back, then the text."""
        begins_heading = self._level > 0 and self._heading_start < 0
        if begins_heading:
            self._newlines, self._cells, self._mark = 2, 0, ""  # it has a line to itself, even in a list or table
        new_line = not self.parts or self._newlines > 0
        before = "\n" * self._newlines if self.parts else ""
        if self._cells:
            before += (" | " * self._cells).lstrip() if new_line else " | " * self._cells
        elif self._space and not new_line:
            before += " "
        before += self._mark
        if begins_heading:
            self._heading_start = self._length + len(before)
        self.parts.append(before + text)
        self._length += len(before) + len(text)
        self._newlines, self._cells, self._mark, self._space, self._fresh = 0, 0, "", False, False

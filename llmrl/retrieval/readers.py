"""Files to text: finds the files of a folder and reads each kind into documents."""

import codecs
import csv
import io
import json
import logging
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import charset_normalizer
from bs4 import BeautifulSoup
from bs4.dammit import EncodingDetector
from bs4.element import NavigableString, PreformattedString, Tag
from bs4.exceptions import ParserRejectedMarkup
from pypdf import PasswordType, PdfReader

from llmrl.config import ReadingConfig
from llmrl.errors import UserError, one_line
from llmrl.retrieval.documents import Document, Found, Heading, Unreadable
from llmrl.retrieval.headings import markdown_headings, rst_headings

NOT_READ = "not a kind of file that is read"
NO_TEXT = "no text in it"
BINARY = "binary, not text"
DELIMITERS = ",;\t|"
_BYTE_ORDER_MARKS = {  # UTF-32 before UTF-16: its mark begins with the mark of UTF-16
    "utf-8-sig": (codecs.BOM_UTF8,),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
# Almost any bytes are UTF-16, so it is never guessed.
_NEVER_GUESSED = ["utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le"]

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LEFT_OUT = frozenset("script style noscript template nav title form button svg".split())
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer "
    "header hgroup hr html legend main p pre section summary table".split()
)


def find_files(folder: Path) -> Found:
    """All files below the folder that can be read, without hidden ones. Raises UserError if it is no folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder" if folder.exists() else f"{folder}: there is no such folder")
    files: list[Path] = []
    skipped: list[tuple[str, str]] = []
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            with os.scandir(here) as entries:
                paths = [here / entry.name for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            skipped.append((document_name(here, folder), f"can't be listed: {error.strerror or error}"))
            continue
        for path in paths:
            reason = _reason_to_skip(path, folder)
            if reason:
                skipped.append((document_name(path, folder), reason))
            else:
                (folders if path.is_dir() else files).append(path)
    return Found(sorted(files, key=lambda path: path.relative_to(folder).as_posix()), sorted(skipped))


def document_name(path: Path, folder: Path) -> str:
    """The posix path relative to the folder; bytes of the name that are not UTF-8 become U+FFFD."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", errors="replace")


def read(path: Path, name: str, options: ReadingConfig) -> Iterator[Document]:
    """The documents in a file: one, or one a row. Raises Unreadable before the first if any part can't be read."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise Unreadable(NOT_READ)
    try:
        size = path.stat().st_size
        if size > options.max_file_mb * 1e6:
            raise Unreadable(f"{size / 1e6:.6g} MB, more than reading.max_file_mb={options.max_file_mb:g}")
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"can't be read: {error.strerror or error}") from None
    documents = [document for document in reader(data, name, options) if document.text.strip()]
    if not documents:
        raise Unreadable(NO_TEXT)
    return iter(documents)


def _reason_to_skip(path: Path, folder: Path) -> str:
    """Why a path is neither walked nor read, or nothing. Links are not followed, so a walk always ends."""
    if path.is_symlink():
        target = Path(os.path.realpath(path))  # unlike Path.resolve, does not raise for a link to itself
        if not target.is_relative_to(os.path.realpath(folder)):
            return "a link that leaves the folder"
        return "a link to another file here" if target.exists() else "a broken link"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"can't be read: {error.strerror or error}"
    if stat.S_ISDIR(mode):
        return ""
    if path.suffix.lower() not in READERS:
        return NOT_READ
    return "" if stat.S_ISREG(mode) else "not a file"  # to read a pipe would wait forever


def _decode(data: bytes, declared: str = "") -> str:
    """By byte order mark, as UTF-8, as what the file declares, or the best guess. Raises Unreadable if nothing fits."""
    marked = next((encoding for encoding, marks in _BYTE_ORDER_MARKS.items() if data.startswith(marks)), None)
    if marked is None and b"\0" in data:
        raise Unreadable(BINARY)
    for encoding in [marked] if marked else ["utf-8", "" if "utf" in declared else declared]:
        try:
            return _clean(data.decode(encoding))
        except (UnicodeError, LookupError):  # what a file declares need not exist
            continue
    guesses = [] if marked else list(charset_normalizer.from_bytes(data, cp_exclusion=_NEVER_GUESSED))  # the best first
    if not guesses:
        raise Unreadable(BINARY)
    as_good = [guess for guess in guesses if guess.coherence >= guesses[0].coherence]
    western = [guess for guess in as_good if "cp1252" in guess.could_be_from_charset]  # of equals, the commonest in old files
    return _clean(str((western or guesses)[0]))


def _clean(text: str) -> str:
    r"""All lines end with \n; NUL and lone surrogates, which many a library can't store, become U+FFFD."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def _first_title(headings: list[Heading], otherwise: str = "") -> str:
    return next((heading.title for heading in headings if heading.level == 1), otherwise)


def _plain(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    return [Document(name, _decode(data))]


def _markdown(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    text = _decode(data)
    headings, metadata = markdown_headings(text)
    return [Document(name, text, headings, _first_title(headings, metadata.get("title", "")), metadata)]


def _rst(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    headings = rst_headings(text := _decode(data))
    return [Document(name, text, headings, _first_title(headings))]


def _html(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    declared = EncodingDetector.find_declared_encoding(data, is_html=True) or ""
    declared = "windows-1252" if declared in ("iso-8859-1", "us-ascii") else declared  # as browsers take them
    with warnings.catch_warnings():  # bs4 wonders at XML and at short texts
        warnings.simplefilter("ignore")
        try:
            soup = BeautifulSoup(_decode(data, declared), "html.parser")
        except ParserRejectedMarkup as error:
            raise Unreadable(f"broken html: {one_line(error)}") from None
    main = soup.find(lambda tag: (tag.name == "main" or tag.get("role") == "main") and not _is_left_out(tag))
    page = _Page()
    page.add(main or soup)
    text = "".join(page.parts)
    headings = [Heading(start, end, level, text[start:end]) for start, end, level in page.headings]
    titles = (tag.get_text() for tag in soup.find_all("title") if not tag.find_parent("svg"))
    return [Document(name, text, headings, _first_title(headings, _clean(" ".join(next(titles, "").split()))))]


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
                self._text(_clean(node))

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


def _pdf(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it logs each oddity of a file, of which there may be thousands
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise Unreadable("encrypted, needs a password")
        pages = [_clean(page.extract_text()).strip() for page in reader.pages]
        title = (reader.metadata and reader.metadata.title) or ""
    except Unreadable:
        raise
    except Exception as error:  # a broken file can make pypdf raise anything, RecursionError too
        raise Unreadable(f"broken pdf: {one_line(error) or type(error).__name__}") from None
    if not any(pages):
        raise Unreadable(f"{NO_TEXT}: scanned pages?")
    headings, start = [], 0
    for number, page in enumerate(pages, 1):
        headings.append(Heading(start, start, 1, f"page {number}"))
        start += len(page) + 2
    return [Document(name, "\n\n".join(pages), headings, " ".join(_clean(str(title)).split()))]


def _json_lines(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    documents = []
    for number, line in enumerate(_decode(data).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"line {number}: not JSON ({one_line(error)})") from None
        if not isinstance(row, dict):
            raise Unreadable(f"line {number}: not an object but {type(row).__name__}")
        if options.text_field not in row:
            raise _no_field(f"line {number}: no key", options, list(row))
        if not isinstance(row[options.text_field], str | None):
            raise Unreadable(
                f"line {number}: {options.text_field!r} must be text, not {type(row[options.text_field]).__name__}"
            )
        documents.append(_row(f"{name}#{number}", row, options))
    return documents


def _table(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    text = _decode(data)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # the file's own limit is reading.max_file_mb
    documents: list[Document] = []
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, options), strict=True)
    try:
        columns = [column.strip() for column in next(rows, [])]
        if options.text_field not in columns:
            raise _no_field("no column", options, columns)
        for number, row in enumerate((row for row in rows if row), 1):
            if any(row[len(columns) :]):
                raise Unreadable(f"line {rows.line_num}: {len(row)} fields, but {len(columns)} columns")
            documents.append(_row(f"{name}#{number}", dict(zip(columns, row, strict=False)), options))
    except csv.Error as error:
        raise Unreadable(f"line {rows.line_num}: {one_line(error)}") from None
    return documents


def _delimiter(text: str, options: ReadingConfig) -> str:
    """The one that splits off the text's column in the header, or makes the most columns of it."""

    def fit(delimiter: str) -> tuple[bool, int]:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        return options.text_field in [column.strip() for column in header], len(header)

    return max(DELIMITERS, key=fit)


def _no_field(what: str, options: ReadingConfig, found: list[str]) -> Unreadable:
    return Unreadable(f"{what} {options.text_field!r} (found: {one_line(', '.join(found))}); set reading.text_field=...")


def _row(name: str, row: dict[str, Any], options: ReadingConfig) -> Document:
    """A row's text, its title, and all other single values as metadata."""
    values = {_clean(key): _clean(value if isinstance(value, str) else json.dumps(value))
              for key, value in row.items() if isinstance(value, str | int | float)}  # fmt: skip
    text, title = values.pop(options.text_field, ""), values.pop(options.title_field, "")
    return Document(name, text, title=title, metadata=values)


READERS: dict[str, Callable[[bytes, str, ReadingConfig], list[Document]]] = {
    **dict.fromkeys((".txt", ".text"), _plain),
    **dict.fromkeys((".md", ".markdown"), _markdown),
    ".rst": _rst,
    **dict.fromkeys((".html", ".htm"), _html),
    ".pdf": _pdf,
    ".jsonl": _json_lines,
    **dict.fromkeys((".csv", ".tsv"), _table),
}
"""What reads the files of each suffix."""

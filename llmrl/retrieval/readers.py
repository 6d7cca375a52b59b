"""Files to text: finds the files of a folder and reads each kind into documents."""

import csv
import io
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pypdf import PasswordType, PdfReader

from llmrl.config import ReadingConfig
from llmrl.errors import UserError, one_line
from llmrl.retrieval.documents import Document, Found, Heading, Unreadable
from llmrl.retrieval.encodings import clean, decode
from llmrl.retrieval.headings import markdown_headings, rst_headings
from llmrl.retrieval.pages import read_page

NOT_READ = "not a kind of file that is read"
NO_TEXT = "no text in it"
DELIMITERS = ",;\t|"


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
    r"""The posix path relative to the folder; bytes of the name that are not UTF-8 become \xff, each as it is."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", errors="backslashreplace")


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


def _first_title(headings: list[Heading], otherwise: str = "") -> str:
    return next((heading.title for heading in headings if heading.level == 1), otherwise)


def _plain(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    return [Document(name, decode(data))]


def _markdown(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    text = decode(data)
    headings, metadata = markdown_headings(text)
    return [Document(name, text, headings, _first_title(headings, metadata.get("title", "")), metadata)]


def _rst(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    headings = rst_headings(text := decode(data))
    return [Document(name, text, headings, _first_title(headings))]


def _html(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    text, headings, title = read_page(data)
    return [Document(name, text, headings, _first_title(headings, title))]


def _pdf(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it logs each oddity of a file, of which there may be thousands
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise Unreadable("encrypted, needs a password")
        pages = [clean(page.extract_text()).strip() for page in reader.pages]
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
    return [Document(name, "\n\n".join(pages), headings, " ".join(clean(str(title)).split()))]


def _json_lines(data: bytes, name: str, options: ReadingConfig) -> list[Document]:
    documents = []
    for number, line in enumerate(decode(data).split("\n"), 1):
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
    text = decode(data)
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
    values = {clean(key): clean(value if isinstance(value, str) else json.dumps(value))
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

"""What is read from the docs folder."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    """Where a heading stands: [start, end) in characters of the text, with the line under or over it if it has one."""

    start: int
    end: int
    level: int  # from 1, the highest
    title: str  # without the marks that make it a heading


@dataclass(frozen=True)
class Document:
    """One text to search in."""

    name: str  # posix path relative to the docs folder; a row's number follows after #
    text: str  # lines end with \n; can always be encoded as UTF-8
    headings: list[Heading] = field(default_factory=list)  # in the order of the text
    title: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The files to read, and (name, reason) of everything else; both in the order of their names."""

    files: list[Path]
    skipped: list[tuple[str, str]]


class Unreadable(Exception):  # noqa: N818 - a file to skip and tell of, not an error of the run
    """Why a file is skipped, in one line that does not name the file."""

"""What may be uploaded, and where it goes; knows no torch."""

import re
from collections.abc import Sequence
from pathlib import Path

from llmrl.errors import UserError
from llmrl.serving.places import Places

KINDS = ("txt", "md", "rst", "html", "htm", "pdf", "jsonl", "csv")
FOLDER = "uploads"
MOST_FILES = 50
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,59}")


def index_folder(places: Places, name: str) -> Path:
    """Where an index of that name is made. Raises UserError for a name that is none, or is taken, perhaps by another."""
    if not NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{name[:80]!r} can't name an index: letters, digits, spaces, - and _, at most 60, a letter or digit first"
        )
    folder = places.inside(f"{FOLDER}/{name.strip()}")
    if folder.exists():
        raise UserError(f"there is an index {name!r} already: choose another name")
    return folder


def refuse_if_full(places: Places, coming: int, most_mb: float) -> None:
    """Raises UserError where everything that was uploaded, indexes included, has more than that with `coming` bytes."""
    used = coming + sum(path.stat().st_size for path in (places.outputs / FOLDER).rglob("*") if path.is_file())
    if used > most_mb * 1e6:
        raise UserError(
            f"{used / 1e6:.0f} MB would be uploaded here, and {most_mb:g} are the most: remove some of {FOLDER}/ first"
        )


def check_files(files: Sequence[tuple[str, int]], most_mb: float) -> None:
    """Names and sizes. Raises UserError where there are none or too many, they are too large, or of a kind that is not read."""
    if not files:
        raise UserError("choose at least one file")
    if len(files) > MOST_FILES:
        raise UserError(f"{len(files)} files; {MOST_FILES} at a time are the most that are taken here")
    if sum(size for _, size in files) > most_mb * 1e6:
        raise UserError(f"the files have more than {most_mb:g} MB together, which is the most that is taken here")
    if len({safe_name(name) for name, _ in files}) < len(files):
        raise UserError("two of the files have the same name")


def keep_files(folder: Path, files: Sequence[tuple[str, bytes]]) -> None:
    """Write files into a new folder, by the last part of their names alone. Raises UserError for one that is not read."""
    named = {safe_name(name): data for name, data in files}
    folder.mkdir(parents=True)
    for name, data in named.items():
        (folder / name).write_bytes(data)


def safe_name(name: str) -> str:
    """A file's own name, whatever path it came with. Raises UserError where nothing is left of it, or its kind is not read."""
    own = re.sub(r"[\x00-\x1f\x7f]", "", name.replace("\\", "/")).rsplit("/", 1)[-1].strip().lstrip(".")[-120:]
    kind = own.rpartition(".")[2].lower() if "." in own else ""
    if kind not in KINDS:
        raise UserError(f"{name[:80]!r} is not read: it must be one of {', '.join(KINDS)}; archives are to be unpacked first")
    return own

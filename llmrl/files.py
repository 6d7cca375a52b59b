"""Files that are whole or not there: written beside, flushed, renamed; and known by their hash."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


def sha256_of(path: Path) -> str:
    """In hexadecimal, of what the file holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the system put a file, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old or the new, never half."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def replace_json(path: Path, content: Any) -> None:
    """The same, as JSON, and its name in the folder on the disk, too."""
    replace_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    flush(path.parent)


def is_locked(folder: Path) -> bool:
    """Whether a process works in that run or sweep folder now."""
    path = folder / ".lock"
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, PermissionError):  # in somebody else's folder that can't be told
        return True

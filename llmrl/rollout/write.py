"""JSON lines that are all there or not at all."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from llmrl.errors import UserError


def write_rows(path: Path, rows: Iterator[Mapping[str, object]]) -> None:
    """All rows or none: what stood there before stays until the last is made. Raises UserError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"out={path} can't be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # its folder may be no folder
            temporary.unlink(missing_ok=True)

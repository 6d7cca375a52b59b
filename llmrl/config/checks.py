"""What every section of the config checks its values with."""

import math
from pathlib import Path

from llmrl.errors import UserError


def refuse(key: str, value: object, allowed: str) -> UserError:
    return UserError(f"{key}={value} is out of range: {allowed}")


def at_least(key: str, value: float | None, minimum: float) -> None:
    if value is not None and not (value >= minimum and math.isfinite(value)):
        raise refuse(key, value, f"it must be at least {minimum}")


def above(key: str, value: float | None, minimum: float) -> None:
    if value is not None and not (value > minimum and math.isfinite(value)):
        raise refuse(key, value, f"it must be above {minimum}")


def between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise refuse(key, value, f"it must be between {low} and {high}")


def divides(key: str, part: int, whole_key: str, whole: int) -> None:
    if whole % part:
        fits = max(n for n in range(1, whole + 1) if whole % n == 0 and n <= part)
        raise UserError(f"{key}={part} does not divide {whole_key}={whole}; try {key}={fits}")


def absolute_if_there(path: str) -> str:
    """A path that exists, made absolute, so that a run's config means the same from every folder; anything else as it is."""
    return str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path


PACKAGED = "packaged:"
ASSETS = Path(__file__).resolve().parent.parent / "assets"


def packaged(name: str) -> Path:
    """The file or folder that a name means: one of the package where it begins with `packaged:`, else a path."""
    return ASSETS / name.removeprefix(PACKAGED) if name.startswith(PACKAGED) else Path(name).expanduser()

"""Bytes to text, in whatever encoding they are."""

import codecs
import re

import charset_normalizer

from llmrl.retrieval.documents import Unreadable

BINARY = "binary, not text"
_BYTE_ORDER_MARKS = {  # UTF-32 before UTF-16: its mark begins with the mark of UTF-16
    "utf-8-sig": (codecs.BOM_UTF8,),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
# Almost any bytes are UTF-16, so it is never guessed.
_NEVER_GUESSED = ["utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le"]


def decode(data: bytes, declared: str = "") -> str:
    """By byte order mark, as UTF-8, as what the file declares, or the best guess. Raises Unreadable if nothing fits."""
    marked = next((encoding for encoding, marks in _BYTE_ORDER_MARKS.items() if data.startswith(marks)), None)
    if marked is None and b"\0" in data:
        raise Unreadable(BINARY)
    for encoding in [marked] if marked else ["utf-8", "" if "utf" in declared else declared]:
        try:
            return clean(data.decode(encoding))
        except (UnicodeError, LookupError):  # what a file declares need not exist
            continue
    guesses = [] if marked else list(charset_normalizer.from_bytes(data, cp_exclusion=_NEVER_GUESSED))  # the best first
    if not guesses:
        raise Unreadable(BINARY)
    as_good = [guess for guess in guesses if guess.coherence >= guesses[0].coherence]
    western = [guess for guess in as_good if "cp1252" in guess.could_be_from_charset]  # of equals, the commonest in old files
    return clean(str((western or guesses)[0]))


def clean(text: str) -> str:
    r"""All lines end with \n; NUL and lone surrogates, which many a library can't store, become U+FFFD."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))

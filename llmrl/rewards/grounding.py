"""What of a text its sources support: content words, and runs of them."""

import re
from collections.abc import Collection, Sequence

from llmrl.rewards.no_repeat import words_of

FUNCTION_WORDS = frozenset(
    "a about after again all also am an and any are as at be because been before being between both but by can could did do "
    "does doing down during each few for from further had has have having he her here hers him his how i if in into is it its "
    "itself just me more most my no nor not now of off on once only or other our ours out over own same she should so some "
    "such than that the their theirs them then there these they this those through to too under until up very was we were "
    "what when where which while who whom why will with would you your yours answer question source sources".split()
)
_CITATION = re.compile(r"\[(\d{1,3})\]")
_ABSTENTION = re.compile(  # at the beginning of a sentence, an apology before it aside
    r"\W*(?:(?:i[’']?m\s+|i\s+am\s+)?(?:sorry|afraid)\W+(?:but\s+|that\s+)?|unfortunately\W+)?(?:"
    r"(?:i|we)\s+(?:(?:really|just|simply)\s+)?(?:don[’']?t|do\s+not|can\s*not|can[’']?t)\s+(?:know|say|tell|answer)\b|"
    r"(?:the\s+)?(?:given\s+)?(?:sources?|context)\s+(?:above\s+|below\s+)?(?:do(?:es)?\s+not|don[’']?t|doesn[’']?t)\s+"
    r"(?:say|tell|hold|contain|mention|have)\b)",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_QUOTED = re.compile(r"[\"“]([^\"“”]+)[\"”]")


def all_words(text: str) -> list[str]:
    """Words in lower case, citations left out; every number is itself."""
    text = _CITATION.sub(" ", text)
    numbers = iter(re.findall(r"\d+(?:[.,]\d+)*", text))
    return [next(numbers, word) if word == "0" else word for word in words_of(text)]


def content_words(text: str) -> list[str]:
    """The same, function words left out."""
    return [word for word in all_words(text) if word not in FUNCTION_WORDS]


def supported_share(response: str, context: str, question: str = "") -> float:
    """Share of the response's content words, those of the question left out, that stand in the context; 1 if there are none."""
    asked, known = set(content_words(question)), set(content_words(context))
    words = [word for word in content_words(response) if word not in asked]
    return sum(word in known for word in words) / len(words) if words else 1.0


def citations(text: str) -> list[int]:
    """Numbers cited as [n], in their order."""
    return [int(number) for number in _CITATION.findall(text)]


def abstains(text: str) -> bool:
    """Whether a text says that it does not know, and nothing else: each sentence that says anything says so."""
    told = [sentence for sentence in _SENTENCES.split(text) if sentence.strip()]
    found = [_ABSTENTION.match(sentence) is not None for sentence in told]
    return any(found) and all(is_one or not content_words(sentence) for sentence, is_one in zip(told, found, strict=True))


def quotations(text: str) -> list[list[str]]:
    """The words of each quotation of three words or more."""
    return [words for quoted in _QUOTED.findall(text) if len(words := all_words(quoted)) >= 3]


def escaped(text: str, control_tokens: Collection[str], openings: Collection[str] = ()) -> str:
    """A retrieved text that can't be taken for anything but text.

    No control token of the model is in it and no citation, and no line of it begins with one of the template's `openings`, as
    "Question:" is one.
    """
    for token in sorted(control_tokens, key=len, reverse=True):
        if len(token) > 1 and not token.isspace():
            text = text.replace(token, f"{token[0]} {token[1:]}")
    for opening in openings:
        text = re.sub(rf"^(?=\s*{re.escape(opening)})", "| ", text, flags=re.IGNORECASE | re.MULTILINE)
    return _CITATION.sub(r"(\1)", text)


def best_source(sentence: str, sources: Sequence[str]) -> int | None:
    """Index of the source that supports most of a sentence's content words; None where none supports any."""
    shares = [supported_share(sentence, source) for source in sources]
    best = max(range(len(shares)), key=shares.__getitem__, default=None)
    return best if best is not None and content_words(sentence) and shares[best] > 0 else None

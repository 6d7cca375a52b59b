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
_ABSTENTION = re.compile(
    r"\b(?:i|we)\s+(?:(?:really|just|simply)\s+)?(?:don[’']?t|do\s+not|can\s*not|can[’']?t)\s+(?:know|say|tell|answer)\b|"
    r"\b(?:the\s+)?(?:sources?|context)\b[^.!?]{0,40}\b(?:do(?:es)?\s+not|don[’']?t|doesn[’']?t)\s+(?:say|hold|contain|mention|have)\b",
    re.IGNORECASE,
)


def content_words(text: str) -> list[str]:
    """Words in lower case, citations and function words left out; every number is itself."""
    text = _CITATION.sub(" ", text)
    numbers = iter(re.findall(r"\d+(?:[.,]\d+)*", text))
    words = [next(numbers, word) if word == "0" else word for word in words_of(text)]
    return [word for word in words if word not in FUNCTION_WORDS]


def supported_share(response: str, context: str, question: str = "") -> float:
    """Share of the response's content words, those of the question left out, that stand in the context; 1 if there are none."""
    asked, known = set(content_words(question)), set(content_words(context))
    words = [word for word in content_words(response) if word not in asked]
    return sum(word in known for word in words) / len(words) if words else 1.0


def citations(text: str) -> list[int]:
    """Numbers cited as [n], in their order."""
    return [int(number) for number in _CITATION.findall(text)]


def abstains(text: str) -> bool:
    """Whether a text says that it does not know."""
    return _ABSTENTION.search(text) is not None


def escaped(text: str, control_tokens: Collection[str]) -> str:
    """A retrieved text that can't be taken for anything but text: no control token of the model in it, and no citation."""
    for token in sorted(control_tokens, key=len, reverse=True):
        if len(token) > 1 and not token.isspace():
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return _CITATION.sub(r"(\1)", text)


def best_source(sentence: str, sources: Sequence[str]) -> int | None:
    """Index of the source that supports most of a sentence's content words; None where none supports any."""
    shares = [supported_share(sentence, source) for source in sources]
    best = max(range(len(shares)), key=shares.__getitem__, default=None)
    return best if best is not None and content_words(sentence) and shares[best] > 0 else None

"""Words looked up by BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009), by the package bm25s."""

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
from bm25s import stopwords
from numpy.typing import NDArray

from llmrl.config import Language, WordsConfig

logging.getLogger("bm25s").setLevel(logging.WARNING)  # importing it has set another

_WORD = re.compile(r"\w+")
_STOP_WORDS = {
    Language.english: stopwords.STOPWORDS_EN, Language.german: stopwords.STOPWORDS_GERMAN,
    Language.french: stopwords.STOPWORDS_FRENCH, Language.spanish: stopwords.STOPWORDS_SPANISH,
    Language.italian: stopwords.STOPWORDS_ITALIAN, Language.portuguese: stopwords.STOPWORDS_PORTUGUESE,
    Language.dutch: stopwords.STOPWORDS_DUTCH, Language.swedish: stopwords.STOPWORDS_SWEDISH,
    Language.norwegian: stopwords.STOPWORDS_NORWEGIAN, Language.danish: stopwords.STOPWORDS_DANISH,
}  # fmt: skip


class Tokens:
    """A text as the words that are looked up: lower case, without stop words, as stems."""

    def __init__(self, config: WordsConfig) -> None:
        self.left_out = frozenset(_STOP_WORDS[config.language]) if config.stop_words and config.language in _STOP_WORDS else ()
        self.stemmer = Stemmer.Stemmer(config.language.value) if config.stemming and config.language in _STOP_WORDS else None

    def __call__(self, text: str) -> list[str]:
        words = [word for word in _WORD.findall(text.lower()) if word not in self.left_out]
        return self.stemmer.stemWords(words) if self.stemmer is not None else words


class Words:
    """Scores of every chunk by the words it shares with a question."""

    def __init__(self, index: bm25s.BM25 | None, tokens: Tokens) -> None:
        self.index, self.tokens = index, tokens  # without an index there are no words in any chunk

    @classmethod
    def build(cls, passages: Iterable[str], config: WordsConfig) -> "Words":
        """Index passages, in the order of the chunks."""
        tokens, vocabulary = Tokens(config), dict[str, int]()
        rows = list(_numbered(passages, tokens, vocabulary))
        if not vocabulary:
            return cls(None, tokens)
        index = bm25s.BM25(k1=config.k1, b=config.b)
        index.index((rows, vocabulary), show_progress=False)
        return cls(index, tokens)

    def save(self, folder: Path) -> None:
        if self.index is not None:
            self.index.save(str(folder), show_progress=False)

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any]) -> "Words":
        """From files whose hashes were checked."""
        said: dict[str, Any] = {**config, "language": Language(config["language"])}
        settings = WordsConfig(**said)
        return cls(bm25s.BM25.load(str(folder)) if folder.is_dir() else None, Tokens(settings))

    def scores(self, question: str, count: int) -> NDArray[np.float32]:
        """[count], of each chunk; 0 where no word is shared."""
        known = [] if self.index is None else self.index.get_tokens_ids(self.tokens(question))
        if self.index is None or not known:
            return np.zeros(count, dtype=np.float32)
        return self.index.get_scores_from_ids(known)


def _numbered(passages: Iterable[str], tokens: Tokens, vocabulary: dict[str, int]) -> Iterator[NDArray[np.int32]]:
    for passage in passages:
        yield np.array([vocabulary.setdefault(word, len(vocabulary)) for word in tokens(passage)], dtype=np.int32)

"""Questions whose documents are known, and how well an index finds these."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrl.config import packaged
from llmrl.errors import UserError
from llmrl.retrieval.metrics import ndcg_at, recall_at, reciprocal_rank
from llmrl.retrieval.search import Searcher


@dataclass(frozen=True)
class Question:
    text: str
    id: str
    paths: tuple[str, ...] = ()  # documents that answer it; none where no document does
    answer: str | None = None


def read_questions(name: str, option: str = "questions") -> list[Question]:
    """JSON lines with `question`, and `path` or `paths`, `answer` and `id` where they are known. Raises UserError."""
    path = packaged(name)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a line of JSON may hold what else ends lines
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}={name} can't be read: {getattr(error, 'strerror', None) or error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row["question"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{option}={name}, line {number}: a JSON object with the key `question` is wanted") from None
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{option}={name}, line {number}: the question must be text that is not blank")
        paths = row.get("paths") or ([row["path"]] if row.get("path") else [])
        if not isinstance(paths, list):
            raise UserError(f"{option}={name}, line {number}: `paths` must be a list of documents, not {paths!r}")
        answer = row.get("answer")
        found.append(
            Question(text, str(row.get("id", number)), tuple(map(str, paths)), None if answer is None else str(answer))
        )
    if not found:
        raise UserError(f"{option}={name} holds no questions")
    return found


@dataclass(frozen=True)
class Found:
    """How one question went."""

    question: Question
    ranked: list[str]  # documents, best first, each at its best chunk
    scores: dict[str, float]  # metric to value


def evaluate(searcher: Searcher, questions: Sequence[Question], at: Sequence[int]) -> list[Found]:
    """Rank documents by their best chunk for each question that has any. Raises UserError for documents that aren't there."""
    found = []
    for question in questions:
        if not question.paths:
            continue
        for path in question.paths:
            if searcher.index.store.text_of(path) is None:
                raise UserError(f"question {question.id}: the index has no document {path!r}")
        hits = searcher.search(question.text, max(10 * max(at), 100))
        same = searcher.index.store.paths(hit.chunk.id for hit in hits)
        ranked = list(dict.fromkeys(_as_meant(same[hit.chunk.id], question.paths) for hit in hits))
        scores = {"mrr": reciprocal_rank(ranked, question.paths)}
        for k in at:
            scores |= {f"recall@{k}": recall_at(ranked, question.paths, k), f"ndcg@{k}": ndcg_at(ranked, question.paths, k)}
        found.append(Found(question, ranked[: max(at)], scores))
    if not found:
        raise UserError("no question says which document answers it: give `path` or `paths`")
    return found


def _as_meant(paths: Sequence[str], wanted: Sequence[str]) -> str:
    """Of the documents that say the same, the one that is asked for, or the first."""
    return next((path for path in paths if path in wanted), paths[0])


def write(path: Path, content: object) -> None:
    """Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={path} can't be written: {error.strerror or error}") from None

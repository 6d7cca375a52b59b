"""Ingest, evaluate and ask as a person runs them, on the documents that come with llmrl."""

import json
from pathlib import Path

import pytest

from tests.conftest import Command, refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retrieval")


def test_ingest_evaluate_and_ask(command: Command, folder: Path) -> None:
    done = command("ingest", "docs=packaged:demo/docs", "index=demo", "retriever=bm25", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "14 new; 14 documents in" in done.stdout
    assert not done.stderr
    again = command("ingest", "docs=packaged:demo/docs", "index=demo", "retriever=bm25", cwd=folder)
    assert again.stdout.startswith("nothing has changed; 14 documents in")
    told = command(
        "retrieval.evaluate", "index=demo", "questions=packaged:demo/questions.jsonl", "at=[10]", "out=found.json", cwd=folder
    )
    assert "60 questions, retriever=bm25" in told.stdout
    found = json.loads((folder / "found.json").read_text())
    assert found["mean"]["recall@10"]["mean"] > 0.8
    assert len(found["each"]) == 60
    question = "How fast does sound travel in water?"
    answered = command("ask", "index=demo", "model=tiny", f'question="{question}"', "out=answer.jsonl", cwd=folder)
    assert answered.returncode == 0, answered.stderr
    row = json.loads((folder / "answer.jsonl").read_text())
    assert row["question"] == question
    assert row["sources"][0]["path"] == "waves/sound.txt"
    assert (row["abstained"] is None) == (row["answer"] != "I don't know.")


def test_what_can_be_mended_is_said_in_one_line(command: Command, folder: Path, tmp_path: Path) -> None:
    assert "docs=nowhere: there is no such folder" in refused(command("ingest", "docs=nowhere", "index=i", "retriever=bm25"))
    assert "questions=none.jsonl can't be read" in refused(
        command("retrieval.evaluate", "index=i", "questions=none.jsonl", cwd=folder)
    )
    assert "there is no such folder; make it with python -m llmrl.ingest" in refused(
        command("ask", "index=nowhere", "model=tiny", "question=why")
    )
    assert "retriever=bm25, which needs no model" in refused(
        command("ingest", "docs=packaged:demo/docs", "index=i", "embedder.name=nobody/none", env={"LLMRL_CACHE": str(tmp_path)})
    )

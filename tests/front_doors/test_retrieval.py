"""Ingest, evaluate and ask as a person runs them, on the documents that come with llmrl."""

import json
from pathlib import Path

import pytest

from llmrl.config import IngestConfig, RetrieverConfig
from llmrl.retrieval.ingest import ingest
from llmrl.retrieval.progress import Progress
from tests.conftest import Command, refused
from tests.retrieval import quiet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retrieval")


def test_ingest_evaluate_and_ask(command: Command, folder: Path) -> None:
    done = command("ingest", "docs=packaged:demo/docs", "index=demo", "retriever=bm25", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "14 new; 14 documents in" in done.stdout
    assert not done.stderr
    told = command(
        "retrieval.evaluate", "index=demo", "questions=packaged:demo/questions.jsonl", "at=[10]", "out=found.json", cwd=folder
    )
    assert "60 of 70 questions (no document answers the other 10), retriever=bm25" in told.stdout
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


def test_a_run_is_pinned_to_its_index(command: Command, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "sound.txt").write_text("Sound travels at 1,480 metres per second in water.", encoding="utf-8")
    (docs / "bread.txt").write_text("Yeast turns sugar into gas, which makes dough rise.", encoding="utf-8")
    rows = [
        {"question": "How fast is sound in water?", "answer": "1,480 metres per second", "path": "sound.txt"},
        {"question": "What makes dough rise?", "answer": "gas", "path": "bread.txt"},
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = IngestConfig(docs=str(docs), index=str(tmp_path / "index"), retriever=RetrieverConfig(name="bm25"))
    ingest(config, Progress(quiet()))
    run = command(
        "train", "experiment=debug", "hydra.run.dir=run", "retriever=bm25", "retriever.index=index", "prompts=questions",
        "prompts.path=questions.jsonl", "reward=[answer,grounded,cites,abstain]",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "contexts: 1 retrieved; 1 hold the answer" in run.stdout
    sample = json.loads((tmp_path / "run" / "samples.jsonl").read_text().splitlines()[0])
    assert "[1] " in sample["prompt"]
    assert set(sample["components"]) == {"answer", "grounded", "cites", "abstain"}
    assert command("compare", "run=run", "evaluation.samples=64").returncode == 0
    (docs / "more.txt").write_text("Copper is a metal.", encoding="utf-8")
    ingest(config, Progress(quiet()))
    assert "it was ingested into since" in refused(command("compare", "run=run", "evaluation.samples=64"))

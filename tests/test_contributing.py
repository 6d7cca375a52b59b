"""CONTRIBUTING's instructions, followed to the letter: its code in a package with entry points, used from the command line."""

import json
import os
import re
from pathlib import Path

from tests.conftest import ROOT, Command


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_instructions_work_for_a_package_of_ones_own(command: Command, tmp_path: Path) -> None:
    reward, trainer, retriever = blocks()
    assert all(len(block.strip().splitlines()) < 20 for block in (reward, trainer))
    assert len([line for line in retriever.splitlines() if line.strip()]) < 20
    site = tmp_path / "site"
    (site / "mine-1.0.dist-info").mkdir(parents=True)
    (site / "mine_reward.py").write_text(reward, encoding="utf-8")
    (site / "mine_trainer.py").write_text(trainer, encoding="utf-8")
    (site / "mine_retriever.py").write_text(retriever, encoding="utf-8")
    (site / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text(
        "[llmrl.rewards]\nexclaims = mine_reward\n\n[llmrl.trainers]\nidle = mine_trainer\n\n"
        "[llmrl.retrievers]\nphrase = mine_retriever\n",
        encoding="utf-8",
    )
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    listed = command("list", env=env)
    assert "reward=exclaims" in listed.stdout
    assert "trains nothing" in listed.stdout
    assert "Rewards a response that ends in an exclamation mark" in listed.stdout
    words = ("trainer=idle", "reward=exclaims", "reward.exclaims.bonus=2", "rollout.max_new_tokens=24")
    done = command("train", "experiment=debug", "hydra.run.dir=run", *words, env=env)
    assert done.returncode == 0, done.stderr
    assert "Verdict: no evidence" in done.stdout
    judged = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert {base["reward"] for _, base, _ in judged["pairs"]} <= {0, 2}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("A red fox.\n", encoding="utf-8")
    (tmp_path / "docs" / "b.txt").write_text("The fox is red.\n", encoding="utf-8")
    assert command("ingest", "docs=docs", "index=index", "retriever=phrase", env=env).returncode == 0
    (tmp_path / "questions.jsonl").write_text('{"question": "Red fox", "path": "a.txt"}\n', encoding="utf-8")
    searched = command("retrieval.evaluate", "index=index", "questions=questions.jsonl", "out=found.json", "at=[2]", env=env)
    assert searched.returncode == 0, searched.stderr
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["each"][0]["ranked"] == ["a.txt"]

"""The median rule, on folders as jobs leave them, and in a sweep."""

import json
from pathlib import Path

import pytest

from llmrl.tracking.siblings import behind, rewards_at
from tests.conftest import Command, refused


def job(sweep: Path, name: str, rewards: dict[int, float], weight: float = 1.0) -> Path:
    folder = sweep / name
    folder.mkdir(parents=True)
    config = f"seed: 1\nreward:\n  no_repeat:\n    weight: {weight}\nppo:\n  lr: 1.0e-05\n"
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    rows = [{"step": step, "eval/reward": value} for step, value in rewards.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_below_the_median_of_enough_others(tmp_path: Path) -> None:
    own = job(tmp_path, "own", {5: 0.4})
    for number, value in enumerate((0.1, 0.5, 0.9)):
        job(tmp_path, str(number), {5: value, 10: value})
    job(tmp_path, "other reward", {5: 9.0}, weight=2.0)
    job(tmp_path, "damaged-0-0", {5: 0.1})
    (tmp_path / "empty").mkdir()
    assert rewards_at(own, 5) == [0.1, 0.5, 0.9]
    assert behind(own, 5, 0.4, least=3).startswith("the held-out reward of 0.400 after step 5 is below 0.500, the median of 3")
    assert behind(own, 5, 0.5, least=3) == ""
    assert behind(own, 5, 0.4, least=4) == ""
    assert behind(own, 6, 0.4, least=1) == ""


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    own, other = job(tmp_path, "own", {}), job(tmp_path, "other", {5: 0.5})
    with (other / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "eval/rew')
    assert rewards_at(own, 5) == [0.5]


@pytest.mark.slow
def test_a_bad_job_ends_early(command: Command, tmp_path: Path) -> None:
    """A reward of 1 for the first two jobs, and of 0 for the third."""
    (tmp_path / "mine.py").write_text(
        "import pathlib\n\n\ndef f(sample):\n"
        "    return float(len(list(pathlib.Path('sweep').glob('0*/evaluation.json'))) < 2)\n",
        encoding="utf-8",
    )
    done = command(
        "train", "-m", "experiment=debug", "hydra.sweep.dir=sweep", "evaluation.examples=0", "seed=1,2,3", "reward=python",
        "reward.python.function=mine.py:f", "trainer.steps=4", "trainer.eval_every=1", "sweep.prune=true",
        "sweep.prune_after=1", "sweep.prune_least=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads((path / "run.json").read_text(encoding="utf-8")) for path in sorted((tmp_path / "sweep").glob("0*"))]
    assert [record["steps"] for record in records] == [4, 4, 2]
    assert "below 1.000, the median of 2 other jobs (sweep.prune)" in records[2]["stopped"]
    assert "set trainer.eval_every" in refused(command("train", "experiment=debug", "sweep.prune=true"))


def test_a_run_of_its_own_is_not_judged_by_what_lies_beside_it(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(sample):\n    return 0.0\n", encoding="utf-8")
    words = (
        "experiment=debug", "evaluation.enabled=false", "reward=python", "reward.python.function=mine.py:f", "trainer.steps=3",
        "trainer.eval_every=1", "sweep.prune=true", "sweep.prune_after=1", "sweep.prune_least=1",
    )  # fmt: skip
    assert command("train", *words, "hydra.run.dir=outputs/first").returncode == 0
    better = (tmp_path / "outputs" / "first" / "metrics.jsonl").read_text(encoding="utf-8").replace(
        '"eval/reward": 0.0', '"eval/reward": 1.0'
    )  # fmt: skip
    (tmp_path / "outputs" / "first" / "metrics.jsonl").write_text(better, encoding="utf-8")
    assert command("train", *words, "hydra.run.dir=outputs/second").returncode == 0
    record = json.loads((tmp_path / "outputs" / "second" / "run.json").read_text(encoding="utf-8"))
    assert (record["steps"], record.get("stopped")) == (3, None)

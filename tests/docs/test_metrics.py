"""docs/metrics.md names every metric that is logged, and none that is not."""

import json
import re
from pathlib import Path

from llmrl.evaluation.bootstrap import Interval
from llmrl.evaluation.comparison import Comparison, Texts
from llmrl.tracking import RunFolder
from llmrl.trainers.run import held_out_looks
from tests.conftest import ROOT, Command

TEXTS = Texts(1.0, 1.0, 0.0, 1.0, 1.0)
SOME = Comparison("base", "trained", 1, 1, 0.0, 0.0, Interval(0.0, 0.0, 0.0, "prompts"), "", {}, 0.0, TEXTS, TEXTS, [])


def test_every_row_says_what_is_healthy_and_what_to_do() -> None:
    rows = [line for line in (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    for row in rows:
        cells = [cell.strip() for cell in row.strip().strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert all(cells), row


def documented() -> set[str]:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    first_cells = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_metric_is_documented_and_every_documented_one_is_logged(command: Command, tmp_path: Path) -> None:
    """One run with every option on that adds a metric, and two of TRL's."""
    done = command(
        "train", "experiment=debug", "reward=[no_repeat,end_of_sentence]", "ppo.kl_place=loss", "ppo.kl_estimator=k3",
        "ppo.entropy_coef=0.01", "trainer.eval_every=1", "evaluation.enabled=false", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    small = ("grpo.batch_size=4", "grpo.minibatch_size=4", "grpo.num_generations=2", "grpo.epochs=1")
    done = command("train", "experiment=debug", "trainer=grpo", *small, "evaluation.enabled=false", "hydra.run.dir=grpo")
    assert done.returncode == 0, done.stderr
    done = command(
        "train", "experiment=debug", "trainer=sft", "trainer.eval_every=2", "evaluation.enabled=false", "hydra.run.dir=sft"
    )
    assert done.returncode == 0, done.stderr
    logged: set[str] = set()
    for run in ("run", "grpo", "sft"):
        for line in (tmp_path / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            logged |= {
                re.sub(r"(?<=/)(no_repeat|end_of_sentence)(?=/|$)|(?<=^trl/).*", "<name>", name) for name in json.loads(line)
            }
    assert logged - documented() == set(), "docs/metrics.md does not name these"
    logged |= {f"eval/final/{name}" for name in Comparison.headline(SOME)}
    logged |= set(held_out_looks(RunFolder(tmp_path / "run")))
    logged.add("rollout/logprob_gap")  # of rollout=vllm, which needs an environment of its own
    assert documented() - logged == set(), "docs/metrics.md names these, but they are not logged"

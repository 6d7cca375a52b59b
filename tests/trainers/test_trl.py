"""TRL's trainers through the real command: a run is a run, whoever trains."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmrl.config import GRPOConfig, RLOOConfig, SFTConfig
from llmrl.errors import UserError
from llmrl.prompts import Prompt
from llmrl.trainers.sft import examples
from tests.conftest import ROOT, SMALL_RUN, Command, refused

GROUP = ("batch_size=8", "num_generations=4", "minibatch_size=4", "epochs=2")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(trainer: str) -> list[str]:
    return [*SMALL_RUN, f"trainer={trainer}", *[f"{trainer}.{word}" for word in GROUP]]


@pytest.mark.parametrize("trainer", ["grpo", "rloo"])
def test_a_run_is_a_run(command: Command, tmp_path: Path, trainer: str) -> None:
    """Two steps: one line a step, every sample, each reward apart, a verdict, and a model that learned."""
    both = ("reward=[no_repeat,end_of_sentence]", "reward.end_of_sentence.weight=0.1", "trainer.eval_every=1")
    done = command("train", *words(trainer), *both, f"{trainer}.lr=1e-3", "rollout.temperature=0.9")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    rows = lines(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [row["episodes"] for row in rows[1:]] == [8, 16]
    samples = lines(run / "samples.jsonl")
    assert len(samples) == 16
    for row in rows[1:]:
        mine = [each for each in samples if each["step"] == row["step"]]
        assert len({each["prompt"] for each in mine}) == 2  # groups of four
        assert row["objective/scores"] == pytest.approx(sum(each["reward"] for each in mine) / 8)
        assert row["objective/scores"] == pytest.approx(
            row["rewards/no_repeat/mean"] + 0.1 * row["rewards/end_of_sentence/mean"], abs=1e-6
        )
        assert {"loss", "lr", "response/length", "samples/s", "eval/reward", "eval/kl", "frac_reward_zero_std"} <= set(row)
    assert rows[0]["eval/kl"] == pytest.approx(0, abs=0.05)  # bf16
    assert rows[2]["eval/kl"] > 0.1
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert (about["status"], about["steps"], about["episodes"]) == ("finished", 2, 16)
    assert len(json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["pairs"]) == 64
    assert not (run / ".trl").exists()
    assert not (run / "checkpoints").exists()
    program = "from transformers import AutoModelForCausalLM as A; A.from_pretrained('run/final')"
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0


def test_fine_tuning_lowers_the_loss_on_answers(command: Command, tmp_path: Path) -> None:
    rows = [{"prompt": f"The colour of thing {i} is", "answer": "purple, as everybody knows."} for i in range(24)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = command(
        "train", *SMALL_RUN, "trainer=sft", "prompts=jsonl", "prompts.path=p.jsonl", "trainer.steps=12", "sft.batch_size=8",
        "sft.lr=1e-3", "trainer.eval_every=6",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    losses = [row["loss"] for row in metrics if "loss" in row]
    assert len(losses) == 12
    assert losses[-1] < 0.5 * losses[0]
    assert "loss" in done.stdout
    said = command("generate", "run=run", 'prompt="The colour of thing 99 is"', "greedy=true", "rollout.max_new_tokens=6")
    assert "purple" in said.stdout


def test_examples_for_fine_tuning() -> None:
    with_answers = [Prompt("1 + 1 =", "a", answer="2"), Prompt("Say: ", "b", answer="hi")]
    assert examples(with_answers) == [{"prompt": "1 + 1 =", "completion": " 2"}, {"prompt": "Say: ", "completion": "hi"}]
    assert examples([Prompt("A text.", "a")]) == [{"text": "A text."}]
    with pytest.raises(UserError, match=r"1 of 2 prompts have no answer \(first: c\)"):
        examples([with_answers[0], Prompt("x", "c")])


def test_ctrl_c_ends_a_run_after_its_step(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "llmrl.train", *words("grpo"), "trainer.steps=40", "evaluation.enabled=false"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGINT)
            break
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "the model as it is then is in run/final" in stdout
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_a_run_that_keeps_no_checkpoints_is_not_gone_on_with(command: Command, tmp_path: Path) -> None:
    done = command("train", *words("grpo"), "trainer.steps=1", "evaluation.enabled=false")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"finished"', '"interrupted"'), encoding="utf-8")
    assert "run is a run of trainer=grpo, which keeps no checkpoints" in refused(command("train", "resume=run"))


def test_a_reward_that_raises_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(sample):\n    raise ValueError('no')\n", encoding="utf-8")
    line = refused(command("train", *words("rloo"), "reward=python", "reward.python.function=mine.py:f"))
    assert "reward 'python' raised ValueError: no" in line


@pytest.mark.parametrize("kind", [GRPOConfig, RLOOConfig, SFTConfig])
@pytest.mark.parametrize("field", ["lr", "batch_size", "micro_batch_size", "adam_eps", "max_grad_norm"])
def test_ranges(kind: type, field: str) -> None:
    with pytest.raises(UserError, match=kind.__name__.removesuffix("Config").lower() + rf"\.{field}=0"):
        kind(**{field: 0})

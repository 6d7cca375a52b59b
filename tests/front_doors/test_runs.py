"""A run from the command to its folder, as a person would start it, stop it and go on with it."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT, SMALL_RUN, Command, refused


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


TWO_REWARDS = ("reward=[no_repeat,end_of_sentence]", "reward.end_of_sentence.weight=0.1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in it: two rewards, two steps."""
    folder = tmp_path_factory.mktemp("finished")
    done = subprocess.run(
        [sys.executable, "-m", "llmrl.train", *SMALL_RUN, *TWO_REWARDS],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout, encoding="utf-8")
    return folder


def test_a_run_folder_is_a_contract(finished: Path) -> None:
    run = finished / "run"
    assert {"config.yaml", "run.json", "metrics.jsonl", "samples.jsonl", "checkpoints", "final", "evaluation.json"} <= {
        path.name for path in run.iterdir()
    }
    about = record(run)
    assert about["status"] == "finished"
    assert (about["steps"], about["episodes"]) == (2, 16)
    assert {"seed", "versions", "commit", "device", "precision", "threads", "seconds", "overrides"} <= set(about)
    metrics = lines(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2]
    assert metrics[0]["objective/kl"] == pytest.approx(0, abs=0.05)
    for row in metrics:
        assert row["objective/scores"] == pytest.approx(
            row["rewards/no_repeat/mean"] + 0.1 * row["rewards/end_of_sentence/mean"], abs=1e-6
        )
    samples = lines(run / "samples.jsonl")
    assert len(samples) == 16
    assert set(samples[0]["components"]) == {"no_repeat", "end_of_sentence"}


def test_the_terminal_shows_the_verdict(finished: Path) -> None:
    shown = (finished / "stdout").read_text(encoding="utf-8")
    assert "step 2/2" in shown
    assert "Held-out comparison: 64 responses of each model" in shown
    assert "Verdict:" in shown
    evaluation = json.loads((finished / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert f"Verdict: {evaluation['verdict']}" in shown
    assert len(evaluation["pairs"]) == 64


def test_the_final_model_loads_without_llmrl(finished: Path) -> None:
    program = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained('run/final')\n"
        "tokenizer = AutoTokenizer.from_pretrained('run/final')\n"
        "out = model.generate(**tokenizer('One day', return_tensors='pt'), max_new_tokens=8, pad_token_id=0)\n"
        "assert 'llmrl' not in sys.modules\n"
        "print(tokenizer.decode(out[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=finished, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("One day")


def test_generate_from_a_run_in_many_ways(finished: Path, command: Command) -> None:
    one = command("generate", "run=run", 'prompt="One day"', "rollout.max_new_tokens=5", cwd=finished)
    assert one.stdout.startswith("One day"), one.stderr
    several = command("generate", "run=run", 'prompt=["One day","Rain"]', "rollout.max_new_tokens=3", cwd=finished).stdout
    assert [text[:4] for text in several.split("\n\n") if text] == ["One ", "Rain"], several
    (finished / "prompts.txt").write_text("One day\nRain falls when\n", encoding="utf-8")
    words = ["run=run", "file=prompts.txt", "samples=2", "out=responses.jsonl", "rollout.max_new_tokens=5", "seed=3"]
    for _ in range(2):
        done = command("generate", *words, cwd=finished)
        assert "4 responses written to responses.jsonl" in done.stdout, done.stderr
    rows = lines(finished / "responses.jsonl")
    assert [row["prompt"] for row in rows] == ["One day"] * 2 + ["Rain falls when"] * 2
    assert rows[0]["response"] != rows[1]["response"]
    greedy = [
        command("generate", "run=run", "prompt=Hello", "greedy=true", f"seed={seed}", cwd=finished).stdout for seed in (1, 2)
    ]
    assert greedy[0] == greedy[1]


def test_compare_gives_the_same_figures_again(finished: Path, command: Command) -> None:
    path = finished / "run" / "evaluation.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    done = command("compare", "run=run", "evaluation.samples=64", cwd=finished)
    assert done.returncode == 0, done.stderr
    after = json.loads((path.parent / "comparison_held_out_base.json").read_text(encoding="utf-8"))
    assert json.loads(path.read_text(encoding="utf-8")) == before  # the run's own verdict stays
    assert after["difference"] == before["difference"]
    assert [pair[2]["response"] for pair in after["pairs"]] == [pair[2]["response"] for pair in before["pairs"]]


def test_a_finished_run_is_not_overwritten_or_resumed(finished: Path, command: Command) -> None:
    assert "holds a run already" in refused(command("train", *SMALL_RUN, cwd=finished))
    assert "run is finished" in refused(command("train", "resume=run", cwd=finished))
    assert record(finished / "run")["status"] == "finished"


def test_interrupted_then_resumed_equals_never_stopped(command: Command, tmp_path: Path) -> None:
    """Ctrl-C keeps the step it is in; going on gives the metrics, samples and weights of a run that was never stopped."""
    words = ["experiment=debug", "trainer.steps=6", "evaluation.enabled=false", "ppo.lr=1e-3"]
    whole = command("train", *words, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "llmrl.train", *words, "hydra.run.dir=stopped"], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGINT)
            break
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "to go on: python -m llmrl.train resume=stopped" in stdout
    assert record(tmp_path / "stopped")["status"] == "interrupted"
    assert record(tmp_path / "stopped")["steps"] < 6
    resumed = command("train", "resume=stopped")
    assert resumed.returncode == 0, resumed.stderr
    about = record(tmp_path / "stopped")
    assert (about["status"], about["resumed"], about["episodes"]) == ("finished", 1, 48)
    assert not list(tmp_path.glob("outputs/*"))  # Hydra's folder for the command that resumed
    timed = ("time/", "tokens/s", "samples/s")
    for name in ("metrics.jsonl", "samples.jsonl"):
        rows = [
            [{key: value for key, value in row.items() if not key.startswith(timed)} for row in lines(tmp_path / run / name)]
            for run in ("whole", "stopped")
        ]
        assert rows[0] == rows[1]
    weights = [load_file(tmp_path / run / "final" / "model.safetensors") for run in ("whole", "stopped")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


REWARDS = {
    "raises": ("def f(sample):\n    return 1 / (len(sample.prompt) - len(sample.prompt))\n", "raised ZeroDivisionError"),
    "nan": ("def f(sample):\n    return float('nan')\n", "returned nan for sample"),
    "none": ("def f(sample):\n    pass\n", "returned 'None', which is no number, for sample"),
    "too_few": ("def f(samples):\n    return [0.0]\n", "returned 1 values for 8 samples"),
}


@pytest.mark.parametrize("how", REWARDS)
def test_a_reward_that_misbehaves(command: Command, tmp_path: Path, how: str) -> None:
    source, said = REWARDS[how]
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    line = refused(command("train", *SMALL_RUN, "reward=python", "reward.python.function=mine.py:f"))
    assert "reward 'python'" in line
    assert said in line
    about = record(tmp_path / "run")
    assert about["status"] == "failed"
    assert said in about["error"]
    assert (tmp_path / "run" / "error.txt").is_file()
    assert (tmp_path / "run" / "checkpoints" / "step-000000" / "policy.safetensors").is_file()  # its state is kept
    assert not (tmp_path / "run" / "final").exists()
    if how == "raises":  # mended, the run goes on where it stopped
        (tmp_path / "mine.py").write_text("def f(sample):\n    return len(sample.response) / 10\n", encoding="utf-8")
        done = command("train", "resume=run")
        assert done.returncode == 0, done.stderr
        assert record(tmp_path / "run")["status"] == "finished"
        assert "error" not in record(tmp_path / "run")


def test_a_reward_that_raises_on_a_held_out_prompt_loses_nothing(command: Command, tmp_path: Path) -> None:
    """The evaluation before the first step is where it would be noticed first."""
    (tmp_path / "mine.py").write_text("def f(sample):\n    raise ValueError('not this one')\n", encoding="utf-8")
    line = refused(command("train", *SMALL_RUN, "reward=python", "reward.python.function=mine.py:f", "trainer.eval_every=1"))
    assert "raised ValueError: not this one" in line
    assert (tmp_path / "run" / "checkpoints" / "step-000000").is_dir()


def test_equal_rewards_are_warned_of_once(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(sample):\n    return 3\n", encoding="utf-8")
    done = command("train", *SMALL_RUN, "reward=python", "reward.python.function=mine.py:f", "evaluation.enabled=false")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: all 8 rewards of step 1 are 3: there is nothing to learn from") == 1
    assert done.stdout.count("warning:") == 1


@pytest.mark.parametrize(("room", "said"), [(4 * 2**20, "the checkpoint"), (4000, "samples.jsonl can't be written")])
def test_a_full_disk(command: Command, tmp_path: Path, room: int, said: str) -> None:
    """No file may grow past a few bytes, as on a disk with that much left: at the first checkpoint, and within a step."""
    done = command(
        "train", *SMALL_RUN, "trainer.checkpoint_every=1", "ppo.batch_size=32",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )  # fmt: skip
    assert said in refused(done)
    about = record(tmp_path / "run")
    assert about["status"] == "failed"
    assert not (tmp_path / "run" / "final").exists()
    checkpoints = tmp_path / "run" / "checkpoints"
    assert not checkpoints.exists() or not list(checkpoints.iterdir())


def test_a_sweep_runs_every_job_in_a_folder_of_its_own(command: Command, tmp_path: Path) -> None:
    done = command("train", "-m", "experiment=debug", "reward=no_repeat,end_of_sentence", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    folders = sorted(path.parent for path in (tmp_path / "sweep").glob("*/run.json"))
    assert [record(folder)["status"] for folder in folders] == ["finished"] * 2
    assert ["no_repeat" in folders[0].name, "end_of_sentence" in folders[1].name] == [True, True]


def test_help_and_cfg_load_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from llmrl.{0} import main\n"
        "sys.argv = ['llmrl', {1!r}{2}]\n"
        "main()\n"
        "heavy = {{'torch', 'transformers', 'wandb', 'huggingface_hub'}} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for name in ("train", "generate", "compare"):
        for flag, rest in (("--help", ""), ("--cfg", ", 'job'")):
            done = subprocess.run(
                [sys.executable, "-c", program.format(name, flag, rest)], cwd=tmp_path, capture_output=True, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert ("Groups" if flag == "--help" else "rollout:") in done.stdout or name == "compare"


def test_list_names_everything(command: Command) -> None:
    shown = command("list").stdout
    for choice in ("model=tiny", "model=qwen2_5_0_5b", "reward=no_repeat", "trainer=ppo", "retriever=none"):
        assert f"{choice} " in shown
    assert all(len(line.split(maxsplit=1)) == 2 for line in shown.splitlines())  # each with its line of meaning


def test_reward_hacking_is_noticed(command: Command, tmp_path: Path) -> None:
    """A reward for the letter a, no KL term and a high learning rate: the score rises, the English goes."""
    (tmp_path / "mine.py").write_text("def f(sample):\n    return sample.response.lower().count('a')\n", encoding="utf-8")
    done = command(
        "train", "reward=python", "reward.python.function=mine.py:f", "hydra.run.dir=run", "tracker=none", "ppo.lr=4e-4",
        "ppo.kl_coef=0", "rollout.max_new_tokens=8", "trainer.steps=14", "evaluation.enabled=false", "ppo.epochs=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("likely reward hacking; read samples.jsonl") == 1


def test_a_loss_that_is_never_finite_ends_the_run_with_its_last_good_state(command: Command, tmp_path: Path) -> None:
    """Returns so large that their squares are no numbers: every step is left out, and what is saved is the model it was."""
    done = command(
        "train", *SMALL_RUN, "ppo.score_scale=1e-38", "trainer.steps=9", "ppo.max_skipped_updates=3",
        "trainer.checkpoint_every=1",
    )  # fmt: skip
    line = refused(done)
    assert "optimiser steps in a row had a loss or gradient that is not finite" in line
    assert "resume=run" in line
    assert record(tmp_path / "run")["status"] == "failed"
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert all(tensor.isfinite().all() for tensor in load_file(newest / "policy.safetensors").values())


def test_weights_that_have_diverged_are_said(command: Command, tmp_path: Path) -> None:
    """A learning rate that breaks the model in its first step: nothing can be sampled in the second."""
    line = refused(command("train", *SMALL_RUN, "ppo.lr=1e30"))
    assert "probabilities are no numbers any more: its weights have diverged; try a lower ppo.lr" in line
    assert record(tmp_path / "run")["status"] == "failed"


def test_the_kl_coefficient_adapts_and_scores_are_normalised(command: Command, tmp_path: Path) -> None:
    """The coefficient of each step follows from the KL of the one before; standardised scores have mean 0 where the KL is 0."""
    done = command(
        "train", *SMALL_RUN, "trainer.steps=5", "ppo.kl_target=0.5", "ppo.kl_horizon=20", "ppo.lr=1e-3", "model.precision=fp32",
        "ppo.score_normalization=standardize", "evaluation.enabled=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = lines(tmp_path / "run" / "metrics.jsonl")
    assert rows[0]["objective/rlhf_reward"] == pytest.approx(0, abs=1e-4)
    assert abs(rows[0]["objective/scores"]) > 0.1
    coef = 0.05
    for row in rows:
        assert row["objective/kl_coef"] == pytest.approx(coef, rel=1e-9)
        coef *= 1 + min(max(row["objective/kl"] / 0.5 - 1, -0.2), 0.2) * 8 / 20
    assert coef != 0.05


def test_cut_sampling_is_warned_of_and_the_learning_rate_follows_its_schedule(command: Command, tmp_path: Path) -> None:
    done = command(
        "train",
        *SMALL_RUN,
        "rollout.top_k=5",
        "trainer.steps=4",
        "ppo.warmup_steps=2",
        "ppo.lr=3e-4",
        "evaluation.enabled=false",
    )
    assert done.returncode == 0, done.stderr
    assert "sampling is cut by top-k or top-p, but log-probabilities are those of the full distribution" in done.stdout
    rates = [row["lr"] for row in lines(tmp_path / "run" / "metrics.jsonl")]
    assert rates == pytest.approx([1e-4, 2e-4, 3e-4, 1.5e-4])

"""Going on with a run that was killed, or refusing to, with the reason."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from llmrl.tracking.wandb_tracker import logged_offline
from tests.conftest import ROOT, SMALL_RUN, Command, refused

WORDS = (*SMALL_RUN, "trainer.steps=4", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=3", "evaluation.enabled=false")


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def change(folder: Path, **facts: object) -> None:
    (folder / "run.json").write_text(json.dumps(record(folder) | facts), encoding="utf-8")


def metrics(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: row[key] for key in row if not key.startswith(("time/", "tokens/s", "samples/s"))} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, made once, with every checkpoint since the second."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(
        [sys.executable, "-m", "llmrl.train", *WORDS], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def killed(whole: Path, tmp_path: Path) -> Path:
    """That run as a kill after its last checkpoint would have left it."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "final")
    change(run, status="running")
    return run


@pytest.mark.slow
def test_killed_at_random_moments_and_while_saving(tmp_path: Path) -> None:
    """The harness of docs/results/kill.md, two kills of it, one while a checkpoint is being written."""
    script = ROOT / "scripts" / "bench" / "kill.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "2", "--saves", "1", "--no-results", "--work", str(tmp_path)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 identical to the bit, 1 killed while a checkpoint was being written" in done.stdout


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(killed: Path, whole: Path, command: Command) -> None:
    (killed / "checkpoints" / "step-000004" / "policy.safetensors").write_bytes(b"\x10")
    done = command("train", "resume=run")
    assert done.returncode == 0, done.stderr
    assert "step-000004 is damaged: policy.safetensors is not what was written; going on from the one before, step-000003" in (
        done.stdout
    )
    assert metrics(killed) == metrics(whole)
    assert (killed / "final" / "model.safetensors").read_bytes() == (whole / "final" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("how", ["ppo.lora_rank=4", "ppo.frozen_layers=3", "ppo.value_head=mlp"])
def test_what_is_trained_in_part_goes_on_to_the_bit(command: Command, tmp_path: Path, how: str) -> None:
    """A checkpoint holds what is trained; the rest comes from the model, and must be the same."""
    done = command("train", *WORDS, how, "ppo.lr=1e-3")
    assert done.returncode == 0, done.stderr
    whole = metrics(tmp_path / "run"), (tmp_path / "run" / "final" / "model.safetensors").read_bytes()
    for name in ("final", "checkpoints/step-000003", "checkpoints/step-000004"):
        shutil.rmtree(tmp_path / "run" / name)
    change(tmp_path / "run", status="running")
    done = command("train", "resume=run")
    assert done.returncode == 0, done.stderr
    assert (metrics(tmp_path / "run"), (tmp_path / "run" / "final" / "model.safetensors").read_bytes()) == whole


def test_nothing_but_damage_is_refused(killed: Path, command: Command) -> None:
    for path in (killed / "checkpoints").glob("step-*"):
        (path / "manifest.json").write_text("", encoding="utf-8")
    assert "there is none before it: start the run again" in refused(command("train", "resume=run"))


def test_a_running_run_is_refused(killed: Path, command: Command) -> None:
    change(killed, process=4711, host="elsewhere")
    with FileLock(killed / ".lock"):
        assert "run is still running: process 4711 on elsewhere" in refused(command("train", "resume=run"))
        assert "is still running" in refused(command("train", *WORDS, "resume=auto"))


def test_a_run_of_a_newer_version_is_refused(killed: Path, command: Command) -> None:
    change(killed, versions={"llmrl": "99.0"})
    assert "was made by llmrl 99.0, this is" in refused(command("train", "resume=run"))


def test_a_config_that_was_edited_is_refused_by_name(killed: Path, command: Command) -> None:
    config = killed / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("kl_coef: 0.05", "kl_coef: 0.06"), encoding="utf-8")
    assert "was made with ppo.kl_coef=0.05, the config says 0.06" in refused(command("train", "resume=run"))


def test_a_model_that_has_changed_is_refused(killed: Path, command: Command) -> None:
    change(killed, weights="0" * 64)
    assert "its weights have changed" in refused(command("train", "resume=run"))


def test_auto_is_for_a_job_that_is_queued_again(killed: Path, command: Command) -> None:
    """The same command: begins, goes on, and says when nothing is left to do; another config is no continuation."""
    assert "holds a run with seed=0, not 1" in refused(command("train", *WORDS, "resume=auto", "seed=1"))
    done = command("train", *WORDS, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert record(killed)["resumed"] == 1
    again = command("train", *WORDS, "resume=auto")
    assert (again.returncode, again.stdout) == (0, "run is finished: nothing is left to do\n")


def test_auto_finds_this_commands_own_unfinished_run(killed: Path, command: Command, tmp_path: Path) -> None:
    """Folders carry the time of day in their names, so it is found by its config; one of another config is left alone."""
    (tmp_path / "outputs").mkdir()
    killed.rename(tmp_path / "outputs" / "yesterday")
    words = [word for word in WORDS if not word.startswith("hydra.run.dir")]
    other = command("train", *words, "resume=auto", "seed=1")
    assert other.returncode == 0, other.stderr
    assert "resumed" not in record(tmp_path / "outputs" / "yesterday")
    done = command("train", *words, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "outputs" / "yesterday")["resumed"] == 1
    assert len(list((tmp_path / "outputs").iterdir())) == 2


def test_a_warning_is_not_given_again(command: Command, tmp_path: Path) -> None:
    """Equal rewards in every step: said in step 1, and known when the run goes on after it."""
    (tmp_path / "mine.py").write_text("def f(sample):\n    return 3\n", encoding="utf-8")
    done = command("train", *WORDS, "reward=python", "reward.python.function=mine.py:f")
    assert done.stdout.count("warning: all 8 rewards") == 1
    for name in ("step-000003", "step-000004"):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / name)
    change(tmp_path / "run", status="running")
    done = command("train", "resume=run")
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout
    assert "warning: all 8 rewards" not in done.stdout


def test_a_run_without_a_checkpoint_begins_again(killed: Path, whole: Path, command: Command) -> None:
    shutil.rmtree(killed / "checkpoints")
    done = command("train", "resume=run")
    assert done.returncode == 0, done.stderr
    assert metrics(killed) == metrics(whole)


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (("trainer.patience=1", "ppo.lr=1e-12", "ppo.value_lr=1e-12"), "no better held-out reward than"),
        (("ppo.stop_run_kl=1e-6", "ppo.lr=1e-3"), "nats per response is above ppo.stop_run_kl=1e-06"),
    ],
)
def test_a_run_ends_early(command: Command, tmp_path: Path, words: tuple[str, ...], seen: str) -> None:
    words = (*words, "trainer.eval_every=1", "trainer.eval_prompts=4", "trainer.steps=9", "evaluation.enabled=false")
    done = command("train", *SMALL_RUN, *words)
    assert done.returncode == 0, done.stderr
    about = record(tmp_path / "run")
    assert about["status"] == "finished"
    assert about["steps"] < 9
    assert seen in about["stopped"]
    assert f"stopped after step {about['steps']}: {about['stopped']}" in done.stdout
    if "ppo.lr=1e-12" in words:  # the same model and the same random numbers at every look
        assert len({row["eval/reward"] for row in metrics(tmp_path / "run")}) == 1


def test_the_best_model_becomes_final(command: Command, tmp_path: Path) -> None:
    """With a learning rate that ruins the model the best is the one before training, and it is judged on other prompts."""
    words = ("trainer.final=best", "trainer.eval_every=1", "ppo.lr=3e-2", "trainer.steps=3", "trainer.keep_checkpoints=1")
    done = command("train", *SMALL_RUN, *words)
    assert done.returncode == 0, done.stderr
    rewards = {row["step"]: row["eval/reward"] for row in metrics(tmp_path / "run")}
    best = max(rewards, key=lambda step: (rewards[step], -step))
    assert best < 3
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {f"step-{best:06d}", "step-000003"}
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    if best == 0:
        assert evaluation["difference"]["mean"] == 0
    too_many = ("trainer.final=best", "trainer.eval_every=1", "trainer.eval_prompts=500")
    seen_while_training = command("train", "experiment=debug", "hydra.run.dir=other", *too_many)
    assert "none would be left for the final comparison" in refused(seen_while_training)


def test_training_is_the_same_with_and_without_looking(command: Command, tmp_path: Path) -> None:
    for name, every in (("with", 1), ("without", 0)):
        words = ("experiment=debug", f"hydra.run.dir={name}", f"trainer.eval_every={every}", "evaluation.enabled=false")
        assert command("train", *words).returncode == 0
    rows = {
        name: [{key: row[key] for key in row if not key.startswith("eval/")} for row in metrics(tmp_path / name) if row["step"]]
        for name in ("with", "without")
    }
    assert rows["with"] == rows["without"]
    final = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert final[0] == final[1]


def test_wandb_goes_on_without_a_gap_or_a_double_line(command: Command, tmp_path: Path) -> None:
    """Killed after a step that was logged and not saved: its figures come again and are left out, offline."""
    words = ("experiment=debug", "tracker=wandb", "tracker.mode=offline", "trainer.steps=4", "trainer.checkpoint_every=2")
    words += ("evaluation.enabled=false", "hydra.run.dir=run", "trainer.samples_every=1")
    killer = (
        "import os, pathlib, time\n\n\ndef f(sample):\n"
        "    log = pathlib.Path('run/metrics.jsonl')\n"
        "    if os.path.exists('stop') and log.exists() and log.read_text().count('\\n') == 3:\n"
        "        time.sleep(2)\n"  # W&B writes in a process of its own, which has the rows by then
        "        os.kill(os.getpid(), 9)\n"
        "    return len(sample.response) / 20\n"
    )
    (tmp_path / "mine.py").write_text(killer, encoding="utf-8")
    (tmp_path / "stop").touch()
    done = command("train", *words, "reward=python", "reward.python.function=mine.py:f")
    assert done.returncode == -9
    (tmp_path / "stop").unlink()
    done = command("train", "resume=run")
    assert done.returncode == 0, done.stderr
    logs = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 2
    assert all(f"run/wandb/{path.parent.name}" in done.stderr.partition("wandb sync")[2] for path in logs)
    rows = sorted(row for path in logs for row in logged_offline(path))
    every = {"histograms": (1, 2, 3, 4), "metrics": (1, 2, 3, 4), "samples": (1, 2, 4)}  # tables at doubling distances
    assert rows == [(kind, step) for kind, steps in every.items() for step in steps]


def test_a_reward_that_draws_random_numbers_goes_on_with_the_same_ones(command: Command, tmp_path: Path) -> None:
    """Left alone, with looks and without, and gone on with after a failure: the same rewards to the last digit."""
    reward = (
        "import os, random\n\nimport numpy\nimport torch\n\ncalls = [0]\n\n\ndef f(sample):\n"
        "    calls[0] += 1\n"
        "    if calls[0] == 20 and os.path.exists('armed'):\n"  # within the third of four batches of eight
        "        os.remove('armed')\n"
        "        raise ValueError('once')\n"
        "    return random.random() + numpy.random.random() + float(torch.rand(()))\n"
    )
    (tmp_path / "mine.py").write_text(reward, encoding="utf-8")
    words = ("experiment=debug", "trainer.steps=4", "trainer.checkpoint_every=1", "evaluation.enabled=false")
    words += ("reward=python", "reward.python.function=mine.py:f")
    rows = {}
    for name, more in {"whole": [], "looks": ["trainer.eval_every=1"], "failed": []}.items():
        if name == "failed":
            (tmp_path / "armed").touch()
        done = command("train", *words, *more, f"hydra.run.dir={name}")
        if name == "failed":
            assert done.returncode != 0
            assert not (tmp_path / "armed").exists()
            done = command("train", "resume=failed")
        assert done.returncode == 0, done.stderr
        rows[name] = [row["objective/scores"] for row in metrics(tmp_path / name) if row["step"]]
    assert len(set(rows["whole"])) == 4
    assert rows["looks"] == rows["whole"]
    assert rows["failed"] == rows["whole"]

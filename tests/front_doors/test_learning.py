"""End to end: the tiny model learns, and the same command drives real architectures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmrl.models.places import cache_folder
from tests.conftest import Command


@pytest.mark.slow
def test_the_quickstart_improves_on_prompts_it_was_not_trained_on(command: Command, tmp_path: Path) -> None:
    """Twelve of its steps are enough to tell."""
    done = command("train", "experiment=quickstart", "trainer.steps=12", "tracker=none", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "Verdict: improved" in done.stdout
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["difference"]["low"] > 0
    assert evaluation["trained"]["repeating"] < evaluation["base"]["repeating"]


SHORT = ("trainer.steps=1", "ppo.batch_size=4", "ppo.minibatch_size=2", "ppo.epochs=1", "trainer.eval_every=0",
         "rollout.max_new_tokens=6", "evaluation.enabled=false", "tracker=none", "hydra.run.dir=run")  # fmt: skip


def generated_without_llmrl(folder: Path) -> str:
    program = (
        "import sys\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})\n"
        "batch = tokenizer('The capital of France is', return_tensors='pt')\n"
        "out = model.generate(**batch, max_new_tokens=3, do_sample=False)\n"
        "assert 'llmrl' not in sys.modules\nprint(tokenizer.decode(out[0]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.real_model
def test_smollm2_trains_and_its_final_model_is_a_plain_one(command: Command, tmp_path: Path, smollm2_folder: Path) -> None:
    done = command("train", "experiment=smollm2_end_of_sentence", *SHORT)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8"))
    assert metrics["objective/kl"] == pytest.approx(0, abs=0.05)
    assert "Paris" in generated_without_llmrl(tmp_path / "run" / "final")


@pytest.mark.slow
@pytest.mark.real_model
def test_distilgpt2_from_a_folder(command: Command, tmp_path: Path) -> None:
    folder = cache_folder() / "distilgpt2-shape"
    assert folder.is_dir(), "bring it with: python scripts/fetch_models.py distilgpt2-shape"
    done = command("train", "reward=no_repeat", "model=distilgpt2", f"model.name_or_path={folder}", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "The capital" in generated_without_llmrl(tmp_path / "run" / "final")


def test_random_walks_come_near_their_known_optimum(command: Command, tmp_path: Path) -> None:
    """A short run of the recipe: from 0.1 to more than 0.7 of what is possible."""
    words = ("trainer.steps=20", "trainer.eval_every=0", "evaluation.enabled=false", "tracker=none", "hydra.run.dir=run")
    done = command("train", "experiment=random_walks", *words)
    assert done.returncode == 0, done.stderr
    rewards = [
        json.loads(line)["objective/scores"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert rewards[0] < 0.2
    assert max(rewards[-5:]) > 0.7

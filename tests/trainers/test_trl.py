"""TRL's trainers through the real command: a run is a run, whoever trains."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmrl.config import GRPOConfig, RLOOConfig, RolloutConfig, SFTConfig
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel
from llmrl.prompts import Prompt
from llmrl.rollout import rollout_of, sample
from llmrl.trainers.lent import lent
from llmrl.trainers.sft import examples
from llmrl.trainers.trl_adapter import shuffled_passes
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
    done = command(
        "train", *words(trainer), *both, f"{trainer}.lr=1e-3", "rollout.temperature=0.9", f"{trainer}.kl_coef=0.05",
        "model.precision=fp32",
    )  # fmt: skip
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
        assert {"loss", "response/length", "response/finished", "samples/s", "tokens/s", "eval/reward", "eval/kl"} <= set(row)
    assert [row["lr"] for row in rows[1:]] == pytest.approx([1e-3, 5e-4])
    assert rows[0]["eval/kl"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert abs(rows[2]["objective/kl"]) > 0.1
    assert rows[2]["eval/kl"] > 0.1
    if trainer == "rloo":  # TRL scores the same tokens at the same positions against the same reference
        assert rows[2]["trl/kl"] * rows[2]["response/length"] == pytest.approx(rows[2]["objective/kl"], abs=1e-3)
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert (about["status"], about["steps"], about["episodes"]) == ("finished", 2, 16)
    assert len(json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["pairs"]) == 64
    assert not (run / ".trl").exists()
    assert not (run / "checkpoints").exists()
    config = json.loads((run / "final" / "config.json").read_text(encoding="utf-8"))
    assert (config["use_cache"], config["pad_token_id"]) == (True, None)  # as the base has them, not as TRL wants them
    program = "from transformers import AutoModelForCausalLM as A; A.from_pretrained('run/final')"
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0


def test_fewer_prompts_than_a_batch_has_groups(command: Command, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("One day\nRain fell\nThe dog\n", encoding="utf-8")
    done = command("train", *words("grpo"), "prompts=text", "prompts.path=p.txt", "evaluation.enabled=false")
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "run" / "samples.jsonl")) == 16


def test_every_pass_holds_every_prompt_once() -> None:
    rows = [{"index": number} for number in range(5)]
    taken = shuffled_passes(rows, 12, seed=3)["index"]
    assert [sorted(taken[:5]), sorted(taken[5:10]), len(taken)] == [list(range(5)), list(range(5)), 12]
    assert taken[:5] != taken[5:10]
    assert shuffled_passes(rows, 7, seed=3)["index"] == taken[:7]


def test_a_lent_model_has_no_dropout_counts_positions_and_comes_back_as_it_was(tiny: LanguageModel) -> None:
    dropouts = [module for module in tiny.model.modules() if isinstance(module, torch.nn.Dropout)]
    for each in dropouts:
        each.p = 0.1
    before = tiny.model.config.to_dict(), tiny.model.generation_config.to_dict(), tiny.tokenizer.pad_token
    row = torch.tensor([tiny.tokenizer("Rain fell on the roof")["input_ids"]])
    padded, mask = torch.cat([torch.zeros_like(row), row], 1), torch.cat([torch.zeros_like(row), torch.ones_like(row)], 1)
    with torch.no_grad():
        alone = tiny.model(input_ids=row).logits[0]
        with lent(tiny):
            tiny.model.train()
            assert {each.p for each in dropouts} == {0.0}
            together = tiny.model(input_ids=padded, attention_mask=mask).logits[0, row.shape[1] :]
            tiny.model.config.use_cache, tiny.model.generation_config.eos_token_id = False, [5]
            tiny.tokenizer.pad_token = tiny.tokenizer.eos_token
            tiny.model.forward = None
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert {each.p for each in dropouts} == {0.1}
    assert (tiny.model.config.to_dict(), tiny.model.generation_config.to_dict(), tiny.tokenizer.pad_token) == before
    assert not tiny.model.training
    assert callable(tiny.model.forward)


def test_a_tokenizer_without_end_and_padding_is_lent_with_both(tiny: LanguageModel) -> None:
    """As of many GGUF files."""
    tiny.tokenizer = copy.deepcopy(tiny.tokenizer)
    tiny.tokenizer.eos_token = None
    with lent(tiny):
        assert tiny.tokenizer.eos_token_id == tiny.stop_ids[0]
        assert tiny.tokenizer.pad_token_id == tiny.pad_id
    assert (tiny.tokenizer.eos_token, tiny.tokenizer.pad_token) == (None, None)


def test_responses_from_elsewhere_are_a_rollout_like_our_own(tiny: LanguageModel) -> None:
    config, prompts = RolloutConfig(max_new_tokens=12, temperature=0.8), [Prompt("One day a girl", "a"), Prompt("Rain", "b")]
    own = sample(tiny, prompts, config, torch.Generator().manual_seed(3))
    lengths = own.response_mask.sum(-1).tolist()
    ids = [row[:length] for row, length in zip(own.response_tokens.tolist(), lengths, strict=True)]
    again = rollout_of(tiny, prompts, ids, config)
    assert (again.texts, again.samples(12)) == (own.texts, own.samples(12))
    assert torch.equal(again.attention_mask, own.attention_mask)
    torch.testing.assert_close(again.logprobs, own.logprobs, atol=1e-4, rtol=0)


def test_weights_that_are_spoilt_end_the_run(command: Command) -> None:
    line = refused(command("train", *words("grpo"), "grpo.lr=1e30", "evaluation.enabled=false"))
    assert "lower grpo.lr" in line


def test_fine_tuning_lowers_the_loss_on_answers(command: Command, tmp_path: Path) -> None:
    rows = [{"prompt": f"The colour of thing {i} is", "answer": "purple, as everybody knows."} for i in range(24)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = command(
        "train", *SMALL_RUN, "trainer=sft", "prompts=jsonl", "prompts.path=p.jsonl", "trainer.steps=12", "sft.batch_size=8",
        "sft.micro_batch_size=4", "sft.lr=1e-3", "trainer.eval_every=6",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    losses = [row["loss"] for row in metrics if "loss" in row]
    assert len(losses) == 12
    assert losses[-1] < 0.5 * losses[0]
    held_out = [row["eval/loss"] for row in metrics if "eval/loss" in row]
    assert len(held_out) == 3
    assert held_out[-1] < 0.5 * held_out[0]
    assert held_out[0] == pytest.approx(losses[0], rel=0.2)  # the same sentence, nearly: the loss means the same
    assert (tmp_path / "run" / "evaluation.json").is_file()
    said = command("generate", "run=run", 'prompt="The colour of thing 99 is"', "greedy=true", "rollout.max_new_tokens=6")
    assert "purple" in said.stdout


def test_examples_for_fine_tuning(tiny: LanguageModel) -> None:
    def shown(prompts: list[Prompt], max_length: int = 64) -> list[tuple[str, str]]:
        """The whole text, and the part that is learned."""
        made = examples(tiny, prompts, max_length)
        learned = [[token for token in each["labels"] if token != -100] for each in made]
        return [
            (str(tiny.tokenizer.decode(each["input_ids"])), str(tiny.tokenizer.decode(part)))
            for each, part in zip(made, learned, strict=True)
        ]

    end = tiny.tokenizer.eos_token
    with_answers = [Prompt("1 + 1 =", "a", answer="2"), Prompt("Say: ", "b", answer="hi")]
    assert shown(with_answers) == [(f"1 + 1 = 2{end}", f" 2{end}"), (f"Say: hi{end}", f"hi{end}")]
    assert shown([Prompt("A text.", "a")]) == [("A text.", "A text.")]
    given = tiny.tokenizer("1 + 1 =")["input_ids"]
    assert examples(tiny, with_answers[:1], 64)[0]["input_ids"][: len(given)] == given  # as in sampling
    with pytest.raises(UserError, match=r"1 of 2 prompts have no answer \(first: c\)"):
        shown([with_answers[0], Prompt("x", "c")])
    with pytest.raises(UserError, match=r"prompt a leaves nothing to learn within 3 tokens"):
        shown(with_answers, max_length=3)


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

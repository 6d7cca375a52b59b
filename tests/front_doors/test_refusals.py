"""Bad input: one clear line, exit status 2, no traceback, no run folder left behind."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from llmrl import ask, compare, generate, ingest, train
from llmrl import list as list_command
from llmrl.retrieval import evaluate
from tests.conftest import Command, refused

FRONT_DOORS = {
    "train": train.main, "generate": generate.main, "compare": compare.main, "list": list_command.main,
    "ingest": ingest.main, "ask": ask.main, "retrieval.evaluate": evaluate.main,
}  # fmt: skip


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """(exit status, stderr) of a command typed in an empty folder; in this process, as nothing gets as far as a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def run(name: str, *words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [f"llmrl.{name}", *words])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        status = FRONT_DOORS[name]()
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("reward=no_repaet", "reward=no_repaet is not a choice; did you mean 'no_repeat'?"),
        ("model=distilgpt", "did you mean 'distilgpt2'?"),
        ("ppo=fast", "ppo=fast is not a choice. Known: default"),
        ("trainer=ppoo", "did you mean 'ppo'?"),
        ("retriever=dense", "retriever=dense needs an index: retriever.index=FOLDER"),
        ("trainer.name=dppo", "there is no trainer 'dppo'; did you mean 'ppo'?"),
        ("rollout.vllm_eager=false", "rollout.vllm_eager is for rollout=vllm"),
        ("ppo.lora_alpha=8", "ppo.lora_alpha is for adapters: set ppo.lora_rank, too"),
        ("ppo.kl_horizon=100", "ppo.kl_horizon is for a kl_coef that adapts: set ppo.kl_target, too"),
        ("prompts=sentences prompts.path=x prompts.words=0", "prompts.words=0 is out of range"),
        ("prompts.held_out_share=1", "it must be above 0 and below 1"),
        ("rollout=vllm", "rollout=vllm needs the package vllm, which is not installed: pip install"),
        ("rollout=vllm trainer=grpo", "rollout=vllm is for trainer=ppo: trainer=grpo is TRL's own"),
        ("rollout=vllm rollout.stop=[x]", "rollout.stop is not for rollout=vllm"),
        ("ppo.lrr=1", "ppo.lrr is not an option; did you mean 'ppo.lr'?"),
        ("rewards=no_repeat", "rewards is not an option; did you mean 'reward'?"),
        ("+ppo.lrr=1", "ppo.lrr is not an option; did you mean 'ppo.lr'?"),
        ("+anything=1", "anything is not an option"),
        ("ppo.max_new_tokens=3", "did you mean 'rollout.max_new_tokens'?"),
        ("reward.no_repeat.strenth=2", "did you mean 'reward.no_repeat.strength'?"),
        ("reward.end_of_sentence.weight=2", "of a reward that is not chosen: add reward=end_of_sentence"),
        ("ppo.lr=abc", "ppo.lr=abc has the wrong type: it must be a number"),
        ("ppo.epochs=1.5", "ppo.epochs=1.5 has the wrong type: it must be a whole number"),
        ("ppo.whiten_advantages=maybe", "it must be true or false"),
        ("model.precision=fp16", "model.precision=fp16 is not a choice. Known: auto, fp32, bf16"),
        ("ppo.lr=-1", "ppo.lr=-1.0 is out of range: it must be above 0"),
        ("ppo.clip_range=nan", "ppo.clip_range=nan is out of range"),
        ("ppo.gamma=1.1", "ppo.gamma=1.1 is out of range: it must be between 0 and 1"),
        ("ppo.kl_place=loss", "does nothing: the expected gradient of k1 is zero"),
        ("ppo.kl_estimator=k3", "in the reward gives a biased gradient"),
        ("ppo.kl_estimator=k4", "ppo.kl_estimator=k4 is not a choice. Known: k1, k2, k3"),
        ("ppo.kl_target=5 ppo.kl_coef=0", "ppo.kl_target needs ppo.kl_coef above 0"),
        ("ppo.kl_target=5 ppo.stop_run_kl=4", "would end the run before the KL reaches"),
        ("ppo.kl_target=5 ppo.kl_horizon=8", "ppo.kl_horizon=8 is too short"),
        ("ppo.kl_target=0", "ppo.kl_target=0.0 is out of range: it must be above 0"),
        ("ppo.kl_horizon=0", "it must be at least 1"),
        ("ppo.lora_rank=4 ppo.frozen_layers=2", "two ways to train fewer weights: choose one"),
        ("ppo.lora_rank=-1", "it must be at least 0"),
        ("ppo.lora_alpha=0", "it must be above 0"),
        ("ppo.lora_targets=[c_attn]", "set ppo.lora_rank, too"),
        ("ppo.warmup_steps=20", "ppo.warmup_steps=20 leaves nothing of trainer.steps=20"),
        ("ppo.lr_schedule=step", "Known: linear, cosine, constant"),
        ("ppo.value_head=deep", "Known: linear, mlp"),
        ("ppo.score_normalization=batch", "Known: none, scale, standardize"),
        ("ppo.stop_update_kl=-1", "it must be above 0"),
        ("ppo.stop_run_kl=nan", "ppo.stop_run_kl=nan is out of range"),
        ("ppo.max_skipped_updates=0", "it must be at least 1"),
        ("ppo.micro_batch_size=3", "ppo.micro_batch_size=3 does not divide ppo.minibatch_size=16; try ppo.micro_batch_size=2"),
        ("ppo.micro_batch_size=0", "it must be at least 1"),
        ("rollout.min_new_tokens=33", "rollout.min_new_tokens=33 is more than rollout.max_new_tokens=32"),
        ("rollout.min_new_tokens=-1", "it must be at least 0"),
        ("rollout.stop=['']", "rollout.stop holds an empty text"),
        ("rollout.include_stop=true", "rollout.include_stop is for rollout.stop, which is empty"),
        ("trainer.patience=3", "trainer.patience goes by the held-out reward while training: set trainer.eval_every, too"),
        ("trainer.final=best", "trainer.final=best goes by the held-out reward"),
        ("trainer.patience=0 trainer.eval_every=1", "it must be at least 1"),
        ("trainer=grpo ppo.lr=1e-5", "ppo.lr is an option of trainer=ppo; the one of trainer=grpo is grpo.lr"),
        ("grpo=default", "grpo goes with trainer=grpo, which is not the one chosen"),
        ("grpo.kl_coef=1", "grpo.kl_coef is an option of trainer=grpo; the one of trainer=ppo is ppo.kl_coef"),
        ("trainer=sft ppo.clip_range=0.1", "those of trainer=sft are sft.batch_size"),
        ("trainer=rloo rloo.lrr=1", "rloo.lrr is not an option; did you mean 'rloo.lr'?"),
        ("trainer=grpo grpo.num_generations=5", "does not divide grpo.batch_size=32; try grpo.num_generations=4"),
        ("trainer=grpo grpo.num_generations=1", "it must be at least 2"),
        ("trainer=rloo rloo.epochs=0", "it must be at least 1"),
        ("trainer=grpo grpo.loss_type=x", "Known: grpo, dr_grpo, dapo, bnpo"),
        ("trainer=grpo resume=auto", "its checkpoints are pickles"),
        ("trainer=grpo rollout.stop=[x]", "rollout.stop is for trainer=ppo"),
        ("trainer=rloo rollout.min_new_tokens=3", "rollout.min_new_tokens is for trainer=ppo"),
        ("trainer=sft trainer.eval_every=1 trainer.patience=2", "trainer.patience is for trainer=ppo"),
        ("trainer=sft sft.warmup_steps=20", "sft.warmup_steps=20 leaves nothing of trainer.steps=20"),
        ("trainer=sft sft.max_length=1", "it must be at least 2"),
        ("ppo.minibatch_size=5", "does not divide ppo.batch_size=32; try ppo.minibatch_size=4"),
        ("rollout.max_new_tokens=0", "rollout.max_new_tokens=0 is out of range: it must be at least 1"),
        ("rollout.temperature=0", "it must be above 0"),
        ("rollout.top_p=0", "it must be above 0 and at most 1"),
        ("trainer.steps=0", "trainer.steps=0 is out of range"),
        ("evaluation.samples=10", "it must be at least 64"),
        ("seed=-1", "seed=-1 is out of range"),
        ("evaluation.seed=-1", "evaluation.seed=-1 is out of range"),
        ("+reward.no_repeat.strenth=9", "did you mean 'reward.no_repeat.strength'?"),
        ("++reward.foo=1", "there is no reward 'foo'"),
        ("resume=", "resume= is empty"),
        ("ppo=null", "ppo can't be null"),
        ("reward=null", "reward can't be null"),
        ("reward=[no_repeat,nope]", "reward=nope is not a choice"),
        ("reward.no_repeat.weight=nan", "reward.no_repeat.weight=nan is out of range"),
        ("ppo.lr=${nope}", "nope"),
        ("model.name_or_path=null", "model.name_or_path can't be null"),
        ("tracker.tags=foo", "it must be a list, tracker.tags=[a,b]"),
        ("model=", "model= is not a choice"),
        ("reward=[]", "no reward: choose at least one"),
        ("reward.no_repeat.weight=0", "every reward has weight 0"),
        ("reward=python", "reward.python.function has no value: set it with"),
        ("reward=python reward.python.function=missing.py:f", "there is no file missing.py"),
        ("reward=python reward.python.function=nothing", "must be FILE.py:NAME or package.module:NAME"),
        ("reward=python reward.python.function=math:sqr", "math has no function 'sqr'"),
        ("prompts=text", "prompts=text needs a file: prompts.path=FILE"),
        ("prompts.path=x.txt", "the packaged openings take none"),
        ("foo", "missing EQUAL"),
        ("ppo.lr=1e-5,2e-5", "To sweep over it, add --multirun"),
        ("--config-dir nowhere", "nowhere' not found"),
        ("resume=nowhere", "nowhere is no run folder"),
        ("hydra.run.dir=/dev/null/run", "Not a directory: /dev/null/run"),
    ],
)  # fmt: skip
def test_train(typed: Callable, tmp_path: Path, words: str, said: str) -> None:
    status, stderr = typed("train", *words.split())
    assert status == 2
    assert stderr.count("\n") == 1
    assert stderr.startswith("llmrl train: ")
    assert said in stderr
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("generate", [], "give one of prompt= and file="),
        ("generate", ["prompt=hello", "file=x"], "give one of"),
        ("generate", ["prompt=[]"], "a prompt is empty"),
        ("generate", ["--steps", "10"], "--steps is not a flag; options are written key=value"),
        ("generate", ["--help", "rolout"], "there is no group 'rolout'; did you mean 'rollout'?"),
        ("generate", ["prompt='  '"], "a prompt is empty"),
        ("generate", ["file=missing.txt"], "there is no such file"),
        ("generate", ["prompt=hello", "rollout.max_new_tokens=0"], "it must be at least 1"),
        ("generate", ["prompt=hello", "temperature=2"], "did you mean 'rollout.temperature'?"),
        ("generate", ["prompt=hello", "run=nowhere"], "nowhere is no run folder"),
        ("generate", ["prompt=hello", "out=/dev/null/x"], "can't be written"),
        ("compare", [], "run has no value: set it with run=..."),
        ("compare", ["run=latest"], "there is no run under outputs/ yet"),
        ("list", ["modl"], "there is no group 'modl'; did you mean 'model'?"),
    ],
)
def test_the_other_commands(typed: Callable, command: str, words: list[str], said: str) -> None:
    status, stderr = typed(command, *words)
    assert status == 2
    assert said in stderr
    assert stderr.count("\n") == 1


def test_a_python_file_that_does_not_import_is_refused(typed: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    status, stderr = typed("train", "reward=python", "reward.python.function=mine.py:f")
    assert status == 2
    assert "mine.py could not be imported: ModuleNotFoundError: No module named 'nothing_of_that_name'" in stderr


def test_an_output_folder_that_cannot_be_written_is_refused(typed: Callable, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file is in the way\n", encoding="utf-8")
    status, stderr = typed("train")
    assert status == 2
    assert "outputs" in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        ("", ["prompts=text", "prompts.path=p.txt"], "holds no prompts"),
        (
            "word " * 600 + "\nshort\n",
            ["prompts=text", "prompts.path=p.txt"],
            "more than the 512 model 'packaged:tiny' can hold",
        ),
    ],
)
def test_prompts_that_cannot_be_used(command: Command, tmp_path: Path, content: str, words: list[str], said: str) -> None:
    (tmp_path / "p.txt").write_text(content, encoding="utf-8")
    line = refused(command("train", *words, "tracker=none", "hydra.run.dir=run"))
    assert said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./no/such/folder", "model.name_or_path=./no/such/folder: there is no such folder"),
        ("encoder", "no causal language model (BertModel)"),
        ("empty", "it has no config.json"),
        ("text.gguf", "it does not begin with the letters GGUF"),
    ],
)
def test_models_that_cannot_be_used(command: Command, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("just text\n", encoding="utf-8")
    BertModel(BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path / "encoder"
    )
    assert said in refused(command("train", f"model.name_or_path={name}", "tracker=none", "hydra.run.dir=run"))
    assert not (tmp_path / "run").exists()


def test_what_is_meant_is_understood(tmp_path: Path, command: Command) -> None:
    """A folder as the model, and a parameter of one's own reward, as one would type them."""
    (tmp_path / "mine.py").write_text("def f(sample, longest=12):\n    return longest\n", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    words = ["model=folder", "reward=python", "reward.python.function=mine.py:f", "reward.python.parameters.longest=10"]
    shown = command("train", *words, "--cfg", "job").stdout
    assert "name_or_path: folder" in shown
    assert "longest: 10" in shown


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("ingest", "docs=nowhere index=i retriever=bm25", "docs=nowhere: there is no such folder"),
        ("ingest", "index=i", "docs has no value: set it with docs=..."),
        ("ingest", "docs=. index=i retriever=none", "one of retriever=hybrid, dense, bm25"),
        ("ingest", "docs=. index=i retriever=bm25", "index=i lies in docs=.: it would be read as a document"),
        ("ingest", "docs=. index=i chunks.max_tokens=4", "chunks.max_tokens=4 is out of range"),
        (
            "ingest",
            "docs=. index=i chunks.overlap_tokens=60",
            "chunks.overlap_tokens=60 is out of range",
        ),
        ("ingest", "docs=. index=i words.b=2", "words.b=2.0 is out of range"),
        ("ingest", "docs=packaged:demo/docs index=i embedder.name=./none", "embedder.name=./none: there is no such folder"),
        ("ingest", "docs=packaged:demo/docs index=i embedder.name=no_such_place/none", "retriever=bm25, which needs no model"),
        ("retrieval.evaluate", "index=i questions=none.jsonl", "questions=none.jsonl can't be read"),
        ("retrieval.evaluate", "index=i questions=packaged:demo/questions.jsonl", "there is no such folder; make it with"),
        ("retrieval.evaluate", "index=i questions=q at=[0]", "it must be a list of ranks from 1"),
        ("ask", "index=nowhere model=tiny question=why", "there is no such folder; make it with python -m llmrl.ingest"),
        ("ask", "index=nowhere model=tiny file=none.jsonl", "file=none.jsonl can't be read"),
        ("ask", "index=i question=why file=f", "give one of question= and file="),
        ("ask", "index=i question=why min_grounded=2", "min_grounded=2.0 is out of range"),
        ("ask", "index=i question=why prompting.source=x", "prompting.source must hold {text}"),
        ("ask", "index=i question=why retriever.k=0", "retriever.k=0 is out of range"),
    ],
)
def test_retrieval(typed: Callable, words: str, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRL_CACHE", "no-cache-here")
    status, stderr = typed(name, *words.split())
    assert status == 2
    assert stderr.count("\n") == 1
    assert stderr.startswith(f"llmrl {name}: ")
    assert said in stderr

"""Does training make a small model use what was retrieved? The grid {base, SFT, RL} x {no context, retrieved, gold, shuffled}.

    python scripts/fetch_corpus.py; python scripts/fetch_models.py smollm2 minilm
    python scripts/bench/rag_grounded.py                  # docs/results/rag_grounded.{json,md,png}; under an hour on two cores
    python scripts/bench/rag_grounded.py --until sft      # the first stages only; what is there already is not made again

An index of the Python FAQ and the library reference, questions whose answers stand in it, split by the document that answers.
SFT is `experiment=rag_grounded_sft`, RL is `experiment=rag_grounded` from there, three seeds; every model then answers the same
held-out questions greedily, with each kind of context. Answers are compared with the true one whatever the context holds.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fetch_corpus import corpora_folder

from llmrl import rewards  # noqa: F401  (importing registers them)
from llmrl.config import ContextKind, ModelConfig, read_train_config
from llmrl.evaluation.bootstrap import paired_interval, verdict
from llmrl.models.load import load
from llmrl.models.places import cache_folder
from llmrl.prompts import Prompt, PromptSplit, load_prompts
from llmrl.rewards import Sample
from llmrl.rewards.answers import Cites, Grounded, answer_f1
from llmrl.rewards.grounding import abstains
from llmrl.rollout import sample
from llmrl.rollout.contexts import with_context
from llmrl.tracking.run_folder import machine

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
CORPUS = corpora_folder() / "python-qa"
MINILM = cache_folder() / "sentence-transformers--all-MiniLM-L6-v2"
SMOLLM2 = cache_folder() / "HuggingFaceTB--SmolLM2-135M-Instruct"
FROM_THE_REFERENCE = 600
KINDS = (ContextKind.none, ContextKind.retrieved, ContextKind.gold, ContextKind.shuffled)
STAGES = ("index", "sft", "rl", "grid")
BATCH = 32


def command(words: Sequence[str]) -> None:
    print("python -m " + " ".join(words), flush=True)
    subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True)


def make_index(work: Path) -> dict[str, Any]:
    """The index, and the questions: all of the FAQ's and some of the reference's, drawn by a fixed seed."""
    made = work / "made.json"
    if made.is_file():
        return json.loads(made.read_text(encoding="utf-8"))
    begun = time.perf_counter()
    command(
        [
            "llmrl.ingest", f"docs={CORPUS / 'docs'}", f"index={work / 'index'}", "retriever=hybrid", f"embedder.name={MINILM}",
            "chunks.max_tokens=60", "chunks.overlap_tokens=12",
        ]
    )  # fmt: skip
    rows = [json.loads(line) for line in (CORPUS / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    faq = [row for row in rows if row["id"].startswith("faq/")]
    reference = random.Random(0).sample([row for row in rows if not row["id"].startswith("faq/")], FROM_THE_REFERENCE)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*faq, *reference])
    (work / "questions.jsonl").write_text(lines, encoding="utf-8")
    found = {"faq": len(faq), "reference": len(reference), "seconds": time.perf_counter() - begun}
    made.write_text(json.dumps(found), encoding="utf-8")
    return found


def make_run(experiment: str, model: Path, seed: int, folder: Path, work: Path, extra: Sequence[str]) -> dict[str, Any]:
    """One run, unless its folder is complete and was made with these words."""
    words = [
        "llmrl.train", f"experiment={experiment}", f"model.name_or_path={model}", f"retriever.index={work / 'index'}",
        f"prompts.path={work / 'questions.jsonl'}", f"seed={seed}", "tracker=none", *extra,
    ]  # fmt: skip
    said = folder / "words.json"
    if not (folder / "evaluation.json").is_file() or not said.is_file() or json.loads(said.read_text("utf-8")) != words:
        shutil.rmtree(folder, ignore_errors=True)
        begun = time.perf_counter()
        command([*words, f"hydra.run.dir={folder}"])
        (folder / "wall_seconds").write_text(f"{time.perf_counter() - begun:.1f}", encoding="utf-8")
        said.write_text(json.dumps(words), encoding="utf-8")
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "seed": seed, "seconds": float((folder / "wall_seconds").read_text(encoding="utf-8")), "contexts": record["contexts"],
        **{key: evaluation[key] for key in ("base_reward", "trained_reward", "difference", "verdict", "kl")},
        "precision": record["precision"], "threads": record["threads"], "versions": record["versions"],
    }  # fmt: skip


def answers(model: Path, work: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """What a model answers to the first held-out questions, by the kind of their context."""
    config = read_train_config(work / "sft" / "config.yaml")
    language_model = load(ModelConfig(name_or_path=str(model)))
    asked = load_prompts(config.prompts).held_out[:count]
    found = {}
    for kind in KINDS:
        config = replace(config, context=replace(config.context, held_out=kind))
        given = with_context(PromptSplit([], asked), config, language_model).split.held_out
        found[kind.value] = [
            judged(before, prompt, text)
            for before, prompt, text in zip(asked, given, _said(language_model, given, config.rollout), strict=True)
        ]
    return found


def _said(language_model: Any, prompts: Sequence[Prompt], rollout: Any) -> list[str]:
    texts: list[str] = []
    for start in range(0, len(prompts), BATCH):
        generator = torch.Generator().manual_seed(0)
        texts += sample(language_model, prompts[start : start + BATCH], rollout, generator, greedy=True).texts
    return texts


def judged(before: Prompt, prompt: Prompt, text: str) -> dict[str, Any]:
    one = Sample(prompt.text, text, context=prompt.context)  # what stands in the sources, whether they answer or not
    held = not abstains(prompt.answer or "")
    return {
        "id": prompt.id, "question": before.text, "response": text.strip(), "held": held,
        "f1": answer_f1(text, before.answer or ""), "grounded": float(Grounded(copy_cap=40)([one])[0]),
        "cites": float(Cites()([one])[0]), "abstains": float(abstains(text)), "right": float(abstains(text) != held),
    }  # fmt: skip


METRICS = {
    "f1": "answer F1", "grounded": "groundedness", "cites": "citations", "abstains": "says it does not know",
    "right": "right to say so or not",
}  # fmt: skip


def values(grid: dict[str, Any], model: str, kind: str, metric: str) -> np.ndarray:
    """[questions, seeds]"""
    return np.array([[row[metric] for row in one[kind]] for one in grid[model]]).T


def _interval(differences: np.ndarray, *, judged: bool = True) -> str:
    """`judged`: more of it is better."""
    found = paired_interval(differences, 0)
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}{f', {verdict(found)}' if judged else ''})"


def _intro(found: dict[str, Any]) -> list[str]:
    grid, index, runs = found["grid"], found["index"], found["rl"]
    asked = grid["base"][0]
    held = {kind.value: fmean(row["held"] for row in asked[kind.value]) for kind in KINDS}
    return [
        "# Training with what was retrieved", "",
        f"Made by `python scripts/bench/rag_grounded.py`, {found['date']}: SmolLM2-135M-Instruct on the Python FAQ "
        f"({index['faq']} questions) and the library reference ({index['reference']}), answers that stand in the documents. "
        f"Hybrid search, 3 chunks of at most 60 tokens, all-MiniLM-L6-v2. {len(asked['none'])} held-out questions, of "
        "documents that no training question is about, answered greedily; "
        f"what was retrieved holds the answer to {held['retrieved']:.0%} of them, gold to {held['gold']:.0%}.", "",
        f"SFT: {found['sft']['seconds']:.0f} s. RL from there: " + ", ".join(f"{run['seconds']:.0f} s" for run in runs)
        + f" for seeds {', '.join(str(run['seed']) for run in runs)}, KL to SFT "
        + ", ".join(f"{run['kl']:.2f}" for run in runs)
        + f" nats a response. All of it with the grid: {found['seconds'] / 60:.0f} minutes, {runs[0]['precision']}, "
        f"{runs[0]['threads']} threads. RL's figures are means over its seeds. Its learning rate and batch were chosen after "
        "two tries on one seed, looking at rewards on 64 of these held-out questions.", "",
        "It is right to say that one doesn't know without a context, with another question's, and where what was retrieved "
        "lacks the answer.", "",
    ]  # fmt: skip


def _table(grid: dict[str, Any], metric: str) -> list[str]:
    title = METRICS[metric]
    lines = [
        f"## {title[0].upper()}{title[1:]}", "",
        "| model | " + " | ".join(kind.value if kind is not ContextKind.none else "no context" for kind in KINDS) + " |",
        "| --- |" + " --- |" * len(KINDS),
    ]  # fmt: skip
    for model in grid:
        each = [values(grid, model, kind.value, metric).mean() for kind in KINDS]
        lines.append(f"| {model} | " + " | ".join(f"{value:.3f}" for value in each) + " |")
    for better, worse in (("SFT", "base"), ("RL", "SFT"), ("RL", "base")):
        gaps = [values(grid, better, kind.value, metric) - values(grid, worse, kind.value, metric) for kind in KINDS]
        each = [_interval(gap, judged=metric != "abstains") for gap in gaps]
        lines.append(f"| {better} over {worse} | " + " | ".join(each) + " |")
    return [*lines, ""]


def _by_source(grid: dict[str, Any]) -> list[str]:
    lines = ["## Of which kind of question", "", "Answer F1 with what was retrieved:", ""]
    for start, title in (("faq/", "the FAQ's"), ("reference/", "the reference's")):
        chosen = [number for number, row in enumerate(grid["base"][0]["retrieved"]) if row["id"].startswith(start)]
        if not chosen:
            continue
        each = {model: values(grid, model, "retrieved", "f1")[chosen] for model in grid}
        means = ", ".join(f"{model} {value.mean():.3f}" for model, value in each.items())
        lines.append(f"- {len(chosen)} of {title}: {means}; RL over base {_interval(each['RL'] - each['base'])}")
    return [*lines, ""]


def _worth(grid: dict[str, Any]) -> list[str]:
    gains = {model: values(grid, model, "retrieved", "f1") - values(grid, model, "shuffled", "f1") for model in grid}
    return [
        "## What the context is worth", "",
        "Answer F1 with the retrieved context minus with another question's, on the same questions:", "",
        *(f"- {model}: {_interval(gain)}" for model, gain in gains.items()), "",
        "Intervals are of the paired difference, 95 %, questions resampled; for RL, the mean of its seeds.", "",
    ]  # fmt: skip


def _examples(grid: dict[str, Any]) -> list[str]:
    lines, count = ["## Three held-out questions with what was retrieved", ""], len(grid["base"][0]["none"])
    for at in range(0, count, max(count // 3, 1))[:3]:
        rows = {model: grid[model][0]["retrieved"][at] for model in grid}
        lines += [f"**{rows['base']['question']}**", ""]
        lines += [f"- {model}: {' '.join(row['response'].split()) or '(nothing)'}" for model, row in rows.items()]
        lines.append("")
    return lines


def render(found: dict[str, Any]) -> str:
    grid = found["grid"]
    tables = [line for metric in METRICS for line in _table(grid, metric)]
    picture = ["![answer F1 by model and context](rag_grounded.png)", ""]
    return "\n".join([*_intro(found), *tables, *_by_source(grid), *_worth(grid), *picture, *_examples(grid)])


def draw(found: dict[str, Any], path: Path) -> None:
    grid = found["grid"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=False)
    for axis, metric in zip(axes, ("f1", "right"), strict=True):
        for number, model in enumerate(grid):
            each = [values(grid, model, kind.value, metric) for kind in KINDS]
            means = [one.mean() for one in each]
            found_intervals = [paired_interval(one, 0) for one in each]
            errors = [[m - i.low for m, i in zip(means, found_intervals, strict=True)],
                      [i.high - m for m, i in zip(means, found_intervals, strict=True)]]  # fmt: skip
            places = np.arange(len(KINDS)) + 0.26 * (number - 1)
            axis.bar(places, means, 0.24, yerr=errors, capsize=2, label=model, color=("#b8b8b8", "#7aa6c2", "#1f5f8b")[number])
        axis.set_xticks(range(len(KINDS)), ["no context", "retrieved", "gold", "shuffled"])
        axis.set_title(METRICS[metric])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--questions", type=int, default=96, help="held-out questions of the grid")
    parser.add_argument("--until", choices=STAGES, default="grid")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "rag_grounded")
    parser.add_argument("--out", type=Path, default=RESULTS / "rag_grounded.json")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of the RL runs, for trying")
    args = parser.parse_args()
    work, last = args.work.resolve(), STAGES.index(args.until)
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "index": make_index(work)}
    if last >= 1:
        found["sft"] = make_run("rag_grounded_sft", SMOLLM2, 0, work / "sft", work, [])
    if last >= 2:
        found["rl"] = [make_run("rag_grounded", work / "sft", seed, work / f"rl-{seed}", work, args.set) for seed in args.seeds]
    if last < 3:
        return
    begun = time.perf_counter()
    found["grid"] = {
        "base": [answers(SMOLLM2, work, args.questions)],
        "SFT": [answers(work / "sft", work, args.questions)],
        "RL": [answers(work / f"rl-{seed}", work, args.questions) for seed in args.seeds],
    }
    found["grid_seconds"] = time.perf_counter() - begun
    found["seconds"] = sum([found["index"]["seconds"], found["sft"]["seconds"], found["grid_seconds"]]) + sum(
        run["seconds"] for run in found["rl"]
    )
    args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(render(found), encoding="utf-8")
    draw(found, args.out.with_suffix(".png"))
    print(render(found))


if __name__ == "__main__":
    main()

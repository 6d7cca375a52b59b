"""`--help` and `llmrl.list`: what can be chosen, read from the config files and schemas themselves."""

import inspect
import re
import sys
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrl.config import CONF_DIR, section_type
from llmrl.errors import UserError
from llmrl.registry import RETRIEVERS, REWARDS, TRAINERS, did_you_mean

ABOUT = {
    "train": (
        "Fine-tune a language model by reinforcement learning against a reward.",
        [
            ("reward=no_repeat model=tiny", "no download, a minute on a laptop"),
            ("reward=[no_repeat,end_of_sentence] reward.no_repeat.weight=5", "two rewards, weighted"),
            ("reward=python reward.python.function=my_file.py:my_reward", "your own reward"),
            ("model.name_or_path=FOLDER tracker=none", "any causal language model, JSON lines only"),
            ("-m reward=no_repeat,end_of_sentence ppo.lr=1e-5,3e-5 seed=1,2,3", "a sweep: every combination"),
            ("-m hydra/launcher=joblib hydra.launcher.n_jobs=2 sweep=kl_frontier", "a sweep by recipe, two jobs at a time"),
            ("sweep.resume=outputs/FOLDER", "go on with a sweep: what is missing, failed or was killed"),
            ("--config-dir my_conf experiment=mine", "with your own config files"),
            ("trainer=grpo grpo.num_generations=8", "another trainer, by TRL"),
            ("resume=outputs/FOLDER", "go on with a run that was stopped or killed"),
        ],
    ),
    "generate": (
        "Sample from any model or run folder.",
        [
            ("'prompt=\"Once upon a time\"'", "stream a response to the terminal"),
            ('run=latest \'prompt=["One day","Rain"]\' samples=3', "from the newest trained model, sampled as it was trained"),
            ("model.name_or_path=FOLDER file=prompts.txt out=responses.jsonl", "a file in, JSON lines out"),
        ],
    ),
    "ingest": (
        "Make an index of a folder of documents, or bring one up to date.",
        [
            (
                "docs=packaged:demo/docs index=outputs/demo retriever=bm25",
                "documents that come with llmrl; needs no model",
            ),
            ("docs=FOLDER index=outputs/mine", "by vectors and words together"),
            ("docs=FOLDER index=outputs/mine chunks.max_tokens=120 rebuild=true", "anew, with smaller chunks"),
        ],
    ),
    "ask": (
        "Answer questions from an index, with citations.",
        [
            ("index=outputs/demo 'question=\"Why is the sky dark at night?\"'", "one question"),
            ("index=outputs/demo model=outputs/FOLDER", "questions that you type, answered by a trained model"),
            ("index=outputs/demo file=questions.jsonl out=answers.jsonl", "a file in, JSON lines out"),
        ],
    ),
    "retrieval.evaluate": (
        "Search with a file of questions whose documents are known: recall@k, MRR, nDCG.",
        [
            ("index=outputs/demo questions=packaged:demo/questions.jsonl", "as the index was made"),
            ("index=outputs/mine questions=FILE retriever=bm25", "by words alone"),
        ],
    ),
    "compare": (
        "Base against trained on held-out prompts, with an interval and a plain verdict.",
        [("run=latest", "the newest run"), ("run=outputs/FOLDER evaluation.samples=256", "more samples, a narrower interval")],
    ),
    "app": (
        "Compare, ask, look at runs and play with rewards in a browser.",
        [
            ("", "at http://localhost:8501, for this machine alone"),
            ("port=8600 outputs=elsewhere/outputs", "another port, other runs and indexes"),
        ],
    ),
}


def options(group: str) -> dict[str, str]:
    """Choices of a config group with the one line each file says of itself; what code has registered is among them."""
    found = {}
    for path in sorted((CONF_DIR / group).glob("*.yaml")):
        found[path.stem] = _first_comment(path)
    registry = {"reward": REWARDS, "trainer": TRAINERS, "retriever": RETRIEVERS}.get(group)
    if registry is not None:
        found = {**registry.summaries(), **found}
    return dict(sorted(found.items()))


def groups() -> list[str]:
    """Names of all config groups, Hydra's own aside."""
    return sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "hydra")


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").strip()
    return ""


def show_help(command: str, schema: type, topics: list[str]) -> None:
    """Print what the command does, its groups and its options; with a topic, that group's options only."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 128)
    sections = {item.name: section for item in fields(schema) if (section := section_type(item.type))}
    if topics:
        for topic in topics:
            _show_group(console, topic, sections)
        return
    about, examples = ABOUT[command]
    console.print(Text(about, style="bold"))
    console.print(Text(f"\nUsage: python -m llmrl.{command} [group=choice ...] [key=value ...]\n"))
    for words, meaning in examples:
        console.print(Text(f"  python -m llmrl.{command} {words}", style="cyan"), Text(f"\n      {meaning}"), sep="")
    has_reward = any(item.name == "reward" for item in fields(schema))
    own = [
        group for group in groups()
        if group in sections or (group == "reward" and has_reward) or (group == "experiment" and command == "train")
    ]  # fmt: skip
    if own:
        console.print(Text("\nGroups", style="bold"), "(more of one: --help GROUP)")
    for group in own:
        console.print(Text(f"  {group} = ") + Text(", ".join(options(group)), style="cyan"))
    _show_fields(console, "Options", schema, "")
    for name, section in sections.items():
        _show_fields(console, (section.__doc__ or "").splitlines()[0], section, f"{name}.")
    console.print(
        "Also: --cfg job shows the composed config, --config-dir adds a folder of your own, --hydra-help lists the rest."
    )


def _show_group(console: Console, topic: str, sections: dict[str, Any]) -> None:
    if topic in sections:
        _show_fields(console, topic, sections[topic], f"{topic}.")
        if topic in groups():
            console.print()
            _show_choices(console, topic)
    elif topic == "reward":
        for name in REWARDS.summaries():
            reward = REWARDS.get(name)
            console.print(Text(f"\n{inspect.getdoc(reward)}"))
            _show_fields(console, name, reward, f"reward.{name}.")  # type: ignore[arg-type]
    elif topic in groups():
        _show_choices(console, topic)
    else:
        raise UserError(f"there is no group {topic!r}{did_you_mean(topic, groups())}")


def _show_choices(console: Console, group: str) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    for choice, meaning in options(group).items():
        table.add_row(Text(f"{group}={choice}", style="cyan", overflow="fold"), Text(meaning))
    console.print(table)


def _show_fields(console: Console, title: str, schema: type, prefix: str) -> None:
    comments = field_comments(schema)
    table = Table(title=Text(title, style="bold"), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 2))
    for item in fields(schema):
        if section_type(item.type):
            continue
        table.add_row(Text(prefix + item.name, style="cyan"), Text(_default(item.default)), Text(comments.get(item.name, "")))
    console.print()
    console.print(table)


def _default(value: object) -> str:
    if value is MISSING or not isinstance(value, str | int | float | bool | Enum | None):
        return ""
    return "null" if value is None else str(value.value if isinstance(value, Enum) else value).lower()


def field_comments(schema: type) -> dict[str, str]:
    """The comment that stands behind each field in the source of a dataclass, its bases included."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if is_dataclass(base):
            try:
                source = inspect.getsource(base)
            except (OSError, TypeError):  # a class made from a function has no source of its own
                continue
            found |= dict(re.findall(r"^    (\w+): .*?  # (.+)$", source, flags=re.MULTILINE))
    return found

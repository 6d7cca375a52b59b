"""`python -m llmrl.sweep show FOLDER`: what a sweep came to."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llmrl.errors import REFUSED, UserError, one_line

USAGE = """Show what a sweep came to: the ranking, which settings matter, whether the first beats the second by more than seeds,
and the command line of the best run. Writes ranking.csv, ranking.json and sweep.html anew.

Usage: python -m llmrl.sweep show FOLDER      (latest: the newest under outputs/)

Start one:   python -m llmrl.train -m reward=no_repeat,end_of_sentence seed=1,2,3
Go on:       python -m llmrl.train sweep.resume=FOLDER"""


def main() -> int:
    """Show a sweep. Returns 0; 1 where jobs failed or are missing; 2 for what the person can mend."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(USAGE)
        return 0 if words else REFUSED
    try:
        if len(words) != 2 or words[0] != "show":
            raise UserError(f"{' '.join(words)!r} is not understood; it is: python -m llmrl.sweep show FOLDER")
        return show(words[1])
    except BrokenPipeError:  # whoever read has read enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        print(f"llmrl sweep: {one_line(error)}", file=sys.stderr)
        return REFUSED


def show(name: str) -> int:
    """Everything about the sweep of that name on the terminal."""
    from llmrl.sweeps.conclude import conclude  # here, as it takes seconds to load
    from llmrl.sweeps.plan import find_sweep, read_plan
    from llmrl.sweeps.ranking import rank
    from llmrl.sweeps.results import read_results

    folder = find_sweep(name)
    status = conclude(folder)
    console = Console(highlight=False, soft_wrap=True)
    for ranking in rank(read_results(folder, read_plan(folder))):
        best = ranking.groups[0].best
        console.print(
            Text(f"\nthe best run{f' of {ranking.reward_name}' if ranking.reward_name else ''}: ", style="bold"), end=""
        )
        console.print(Text(str(best.folder)))
        console.print(Text(command_of(folder, best.folder), style="cyan"))
        if len(ranking.groups[0].results) > 1:
            console.print("its seed was the luckiest of its settings: another will most likely do less well")
    return status


def command_of(sweep: Path, run: Path) -> str:
    """The command line that makes a run of a sweep again, alone: with its threads, and no sweep where a recipe asks for one."""
    import json
    import shlex

    from llmrl.sweeps.plan import read_plan

    record, begun_with = json.loads((run / "run.json").read_text(encoding="utf-8")), read_plan(sweep).words
    words = [word for word in record["overrides"] if not word.startswith(("sweep.", "resume="))]
    threads = record.get("threads")
    said = any(word.startswith("trainer.threads=") for word in words)
    if threads and not said and threads != record.get("machine", {}).get("processors"):
        words.append(f"trainer.threads={threads}")
    if not {"-m", "--multirun"} & set(begun_with) or any(word.startswith("sweep=") for word in words):
        words.append("hydra.mode=RUN")
    return " ".join(["python -m llmrl.train", *map(shlex.quote, [*config_flags(begun_with), *words])])


def config_flags(words: Sequence[str]) -> list[str]:
    """What the words say of where configs are: `--config-dir=X` is one word, `--config-dir X` or `-cd X` two."""
    found: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--config") or word in ("-cd", "-cn", "-cp"):
            found += [word] if "=" in word else [word, following]
    return found


if __name__ == "__main__":
    sys.exit(main())

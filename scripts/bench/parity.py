"""Does llmrl compute what a trusted PPO computes? TRL 0.11.3's classic PPOTrainer on the same numbers, token by token.

    python scripts/bench/parity.py      # docs/results/parity.{json,md}

TRL runs in an environment of its own, made once with venv and pip. What differs by more than a tolerance has a cause, and
agrees when TRL's convention is applied to llmrl. Exits with 1, and leaves the results as they are, where anything differs
without a cause, or agrees although a difference is expected.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from parity_cases import CASES, SETTINGS, Case, make_case
from parity_llmrl import Variant, alone, measure
from parity_rows import QUANTITIES, SECTIONS, Row, Section
from safetensors.torch import load_file
from torch import Tensor

from llmrl.models.places import cache_folder
from llmrl.tracking.run_folder import machine

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
REQUIREMENTS = ("torch==2.13.0", "trl==0.11.3", "transformers==4.46.3", "numpy<2.3", "rich", "tyro")
CONVENTIONS = {  # of TRL's, applied to llmrl
    "whitening": Variant(unbiased_whitening=True),
    "whitening, positions": Variant(unbiased_whitening=True, counting_padding=True),
    "whitening, clipping": Variant(unbiased_whitening=True, clipping_once=True),
}
CLEARLY = 10  # a difference that is explained is this many tolerances at least


@dataclass
class Found:
    """One row of one model's table."""

    section: str
    row: Row
    difference: float  # largest absolute
    largest: float  # of the peer's entries, absolute
    numbers: int  # how many were compared

    @property
    def tolerance(self) -> float:
        return QUANTITIES[self.row.quantity].tolerance

    @property
    def holds(self) -> bool:
        """A NaN on either side holds nothing."""
        if self.row.differs:
            return self.difference > CLEARLY * self.tolerance
        return self.difference <= self.tolerance


def peer_python(folder: Path) -> Path:
    """The interpreter of the peer's environment, which is made if it is not there. Raises CalledProcessError if pip fails."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    probe = "from importlib.metadata import version as v; assert (v('trl'), v('transformers')) == ('0.11.3', '4.46.3')"
    if not python.is_file() or subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode:
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
    return python


def peer_versions(python: Path) -> dict[str, str]:
    names = ("trl", "transformers", "torch", "accelerate", "numpy")
    code = f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in {names}}}))"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def run_case(case: Case, folder: Path, python: Path) -> list[Found]:
    """Both sides on one model. `folder` is new and empty."""
    make_case(case, folder)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    subprocess.run([python, Path(__file__).with_name("parity_trl.py"), folder], check=True, env=environment)
    sides = {f"TRL, {side}": load_file(folder / f"trl_{side}.safetensors") for side in ("right", "left")}
    sides |= {"transformers": alone(folder), "llmrl": measure(folder, Variant())}
    sides |= {name: measure(folder, variant) for name, variant in CONVENTIONS.items()}
    responses = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))["responses"]
    real = torch.arange(max(map(len, responses))) < torch.tensor([[len(response)] for response in responses])
    return [compare(section, row, sides, real) for section in SECTIONS for row in section.rows]


def compare(section: Section, row: Row, sides: dict[str, dict[str, Tensor]], real: Tensor) -> Found:
    """Largest difference between the two sides of a row, over the tokens that are `real` [B, T] where it has tokens."""
    ours = flat(sides[row.ours], row.ours_quantity or row.quantity, real)
    peer = flat(sides[row.peer], row.quantity, real)
    if len(ours) != len(peer):
        raise ValueError(f"{row.quantity}: {len(ours)} numbers of {row.ours}, {len(peer)} of {row.peer}")
    return Found(section.title, row, float((ours - peer).abs().max()), float(peer.abs().max()), len(peer))


def flat(tensors: dict[str, Tensor], quantity: str, real: Tensor) -> Tensor:
    """A quantity as a vector; one that is a tensor for each weight, in the order of the weights' names."""
    if quantity in tensors:
        tensor = tensors[quantity]
        return tensor[real] if tensor.shape == real.shape else tensor.flatten()
    names = sorted(name for name in tensors if name.startswith(f"{quantity}."))
    return torch.cat([tensors[name].flatten() for name in names])


def line(found: Found) -> str:
    """One row of the table."""
    quantity, row = QUANTITIES[found.row.quantity], found.row
    ours = f"llmrl with TRL's {row.ours}" if row.ours in CONVENTIONS else row.ours
    if row.ours_quantity:
        ours = "llmrl's tensors, TRL's formula"
    relative = f"{found.difference / found.largest:.1e}" if quantity.relative else "-"
    verdict = ("differs" if row.differs else "agrees") if found.holds else "NOT AS EXPECTED"
    cells = [
        quantity.label, quantity.unit, ours, row.peer, f"{found.numbers:,}", f"{found.largest:.3g}", f"{found.difference:.1e}",
        relative, f"{found.tolerance:.0e}", verdict,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


HEADER = """
| quantity | unit | one side | other side | numbers | largest | largest difference | relative | tolerance | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def render(results: dict[str, list[Found]], versions: dict[str, dict[str, str]]) -> str:
    titles = {case.name: case.title for case in CASES}
    settings = ", ".join(f"`{name}` {value}" for name, value in SETTINGS.items() if name != "epochs")
    agreeing = [found for rows in results.values() for found in rows if not found.row.differs]
    own, peer = versions["llmrl"], versions["peer"]
    parts = [
        "# PPO, number for number against TRL 0.11.3\n\n"
        "Made by `python scripts/bench/parity.py`. TRL's classic `PPOTrainer` (`batched_forward_pass`, `compute_rewards`, "
        "`compute_advantages`, `loss`, `step`) and llmrl read the same weights, value head, token ids and scores from files, "
        "and everything is compared over real response tokens, in fp32 on the processor: llmrl with "
        f"torch {own['torch']} and transformers {own['transformers']}, TRL with torch {peer['torch']} and transformers "
        f"{peer['transformers']}.\n\n"
        "Eight prompts of different lengths; responses of 1 to 16 tokens, some ended, some cut off; a reference whose weights "
        "are a little off; a random value head; temperature 1. Both sides are configured alike: "
        f"{settings}; a fixed KL coefficient, no scaling or clipping of scores, rewards not whitened, one minibatch of all "
        "eight, no schedule, one learning rate for all weights, Adam (llmrl's AdamW has weight decay 0). TRL's "
        "`ratio_threshold` is out of reach, as llmrl has no such guard.\n\n"
        f"{len(agreeing)} comparisons agree within their tolerance. What differs as it stands has a section with its cause: "
        "there, each row that differs is followed by the same with TRL's convention applied to llmrl, which agrees. The "
        "command fails where a row is not as it says.\n"
    ]
    for section in SECTIONS:
        parts.append(f"\n## {section.title}\n\n{section.text}\n")
        for name, rows in results.items():
            lines = "\n".join(line(found) for found in rows if found.section == section.title)
            parts.append(f"\n**{name}** ({titles[name]}):\n{HEADER}{lines}\n")
    return "".join(parts)


def record(results: dict[str, list[Found]], versions: dict[str, dict[str, str]]) -> dict[str, Any]:
    """What goes to parity.json."""
    rows = {
        name: [asdict(found) | {"tolerance": found.tolerance, "unit": QUANTITIES[found.row.quantity].unit} for found in each]
        for name, each in results.items()
    }
    return {"machine": machine(), "versions": versions, "settings": SETTINGS, "models": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=cache_folder().parent / "parity-venv", help="the peer's environment")
    parser.add_argument("--work", type=Path, help="where batches and both sides' tensors are kept; else they are dropped")
    args = parser.parse_args()
    subprocess.run([sys.executable, ROOT / "scripts" / "fetch_models.py", "distilgpt2-shape", "--quiet"], check=True)
    python = peer_python(args.venv.expanduser().absolute())
    own = {name: metadata.version(name) for name in ("torch", "transformers", "numpy")}
    versions = {"llmrl": own, "peer": peer_versions(python)}
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).absolute()
        results = {case.name: run_case(case, work / case.name, python) for case in CASES}
    text = render(results, versions)
    print(text)
    wrong = [(name, found) for name, rows in results.items() for found in rows if not found.holds]
    for name, found in wrong:
        print(f"parity: not as expected, {name}, {found.section}: {line(found)}", file=sys.stderr)
    if wrong:
        return 1
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "parity.json").write_text(json.dumps(record(results, versions), indent=1) + "\n", encoding="utf-8")
    (RESULTS / "parity.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

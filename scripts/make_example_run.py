"""Make the example run that ships with llmrl: the quickstart, its model rounded to bf16, compared again as it ships.

    python scripts/make_example_run.py        # about two minutes; writes llmrl/assets/example_run

Only what the app and `run=packaged:example_run` read is kept: config, record, metrics, comparison and final model.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "llmrl" / "assets" / "example_run"
KEPT = ("config.yaml", "run.json", "metrics.jsonl")
PRIVATE = ("process", "host", "source", "machine", "commit")
"""What run.json says of the machine it was made on."""


def llmrl(command: str, *words: str, cwd: Path) -> None:
    subprocess.run([sys.executable, "-m", f"llmrl.{command}", *words], cwd=cwd, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run = work / "run"
        llmrl("train", "experiment=quickstart", "tracker=none", "seed=0", "hydra.run.dir=run", cwd=work)
        weights = run / "final" / "model.safetensors"
        save_file({name: each.bfloat16() for name, each in load_file(weights).items()}, weights, metadata={"format": "pt"})
        llmrl("compare", "run=run", "evaluation.samples=128", cwd=work)
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir()
        for name in KEPT:
            shutil.copy(run / name, PLACE / name)
        shutil.copytree(run / "final", PLACE / "final")
        compared = json.loads((run / "comparison_held_out_base.json").read_text(encoding="utf-8"))
        compared |= {"base_name": "packaged:tiny", "trained_name": "packaged:example_run"}
        (PLACE / "evaluation.json").write_text(json.dumps(compared, ensure_ascii=False) + "\n", encoding="utf-8")
    (PLACE / "final" / "model.safetensors").chmod(0o644)
    record = json.loads((PLACE / "run.json").read_text(encoding="utf-8"))
    record = {key: value for key, value in record.items() if key not in PRIVATE} | {"verdict": compared["verdict"]}
    (PLACE / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

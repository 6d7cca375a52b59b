"""What a run that does not retrieve must not load: it would take seconds of every start."""

import subprocess
import sys


def test_training_loads_nothing_of_retrieval() -> None:
    heavy = ("faiss", "bm25s", "sentence_transformers")
    told = f"import sys, llmrl.trainers.run, llmrl.evaluation.run; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Trackers: Weights & Biases, TensorBoard, or none beside the JSON lines of the run folder."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmrl.config import TrackerConfig, TrackerKind
from llmrl.errors import UserError
from llmrl.tracking.run_folder import RunFolder

Histogram = Mapping[str, list[float]]
"""`edges` [n + 1] and `counts` [n]."""


class Tracker:
    """Takes one flat dict of floats a step and now and then samples and histograms. Never raises for want of a network.

    This one does nothing: the run folder has it all. Others are derived from it.
    """

    def go_on_after(self, step: int) -> None:
        """The run goes on after `step`: what comes now may have been logged before, and must not be there twice."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One step's metrics."""

    def log_samples(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Some responses with their prompts and rewards, as samples.jsonl holds them."""

    def log_histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """How rewards, lengths and ratios of the step lie."""

    def summarise(self, figures: Mapping[str, float | str]) -> None:
        """What the run came to."""

    def alert(self, title: str, text: str) -> None:
        """Something that a person should look at now."""

    def finish(self, exit_code: int) -> None:
        """Nothing more will come."""


def check_tracker(config: TrackerConfig) -> None:
    """Raises UserError, before a model loads, if the package of the tracker is missing."""
    if config.kind is TrackerKind.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("tracker=tensorboard needs the package: pip install tensorboard")


def make_tracker(config: TrackerConfig, run: RunFolder, settings: dict[str, Any]) -> Tracker:
    """The tracker of `config`, started. `settings` is the run's whole config as plain nested containers."""
    if config.kind is TrackerKind.wandb:
        from llmrl.tracking.wandb_tracker import WandbTracker  # here, as it takes a second to import

        return WandbTracker(config, run, settings)
    if config.kind is TrackerKind.tensorboard:
        return TensorBoardTracker(run)
    return Tracker()


def histogram(values: Sequence[float] | np.ndarray, bins: int = 32) -> dict[str, list[float]]:
    """Counts of values between even edges, from the lowest to the highest; of values that are all alike, one bar."""
    counts, edges = np.histogram(np.asarray(values, dtype=np.float64), bins=bins)
    return {"edges": edges.tolist(), "counts": counts.astype(float).tolist()}


class TensorBoardTracker(Tracker):
    """Event files in the run folder's tensorboard/."""

    def __init__(self, run: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._make = str(run.path / "tensorboard"), SummaryWriter
        self._writer = SummaryWriter(self._folder)

    def go_on_after(self, step: int) -> None:
        self._writer.close()
        self._writer = self._make(self._folder, purge_step=step + 1)  # TensorBoard then hides what was logged after it

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def log_samples(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        text = "\n\n".join(f"**{row['prompt']}** {row['response']}  \nreward {row['reward']:.3f}" for row in rows)
        self._writer.add_text("samples", text, step)

    def log_histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        for name, each in histograms.items():
            counts, edges = np.array(each["counts"]), np.array(each["edges"])
            middles = (edges[1:] + edges[:-1]) / 2
            self._writer.add_histogram_raw(
                f"histograms/{name}", min=edges[0], max=edges[-1], num=int(counts.sum()), sum=float(counts @ middles),
                sum_squares=float(counts @ middles**2), bucket_limits=edges[1:].tolist(), bucket_counts=counts.tolist(),
                global_step=step,
            )  # fmt: skip

    def summarise(self, figures: Mapping[str, float | str]) -> None:
        self._writer.add_text("summary", "  \n".join(f"{name}: {value}" for name, value in figures.items()))

    def alert(self, title: str, text: str) -> None:
        self._writer.add_text("alerts", f"**{title}** {text}")

    def finish(self, exit_code: int) -> None:
        self._writer.close()

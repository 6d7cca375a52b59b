"""A comparison on the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrl.evaluation.bootstrap import Interval
from llmrl.evaluation.comparison import Comparison

COLOURS = {"improved": "green", "worse": "red", "no evidence": "yellow"}


def show_comparison(comparison: Comparison, console: Console, examples: int, held_out: bool = True) -> None:
    """Print the figures, the verdict in plain words, and a few pairs side by side, unpicked."""
    which = "Held-out comparison" if held_out else "Comparison"
    where = "never trained on" if held_out else "of the training set"
    console.print(
        f"\n{which}: {comparison.samples} responses of each model to {comparison.prompts} prompts {where}", style="bold"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", "base", "trained", "difference (95 % interval)"):
        table.add_column(title, justify="left" if not title else "right")
    table.add_row(
        "reward",
        f"{comparison.base_reward:.3f}",
        f"{comparison.trained_reward:.3f}",
        _span(comparison.difference),
        style="bold",
    )
    if len(comparison.components) > 1:
        for name, interval in comparison.components.items():
            table.add_row(f"  {name}", "", "", _span(interval))
    base, trained = comparison.base, comparison.trained
    table.add_row("responses that repeat themselves", f"{base.repeating:.0%}", f"{trained.repeating:.0%}", "")
    table.add_row("words", f"{base.words:.1f}", f"{trained.words:.1f}", "")
    table.add_row("ended by themselves", f"{base.finished:.0%}", f"{trained.finished:.0%}", "")
    table.add_row(
        "perplexity under base, median", f"{base.perplexity_under_base:.1f}", f"{trained.perplexity_under_base:.1f}", ""
    )
    table.add_row("KL to base, nats per response", "", f"{round(comparison.kl, 2) + 0.0:.2f}", "")
    console.print(table)
    for prompt, before, after in comparison.pairs[:: max(1, len(comparison.pairs) // examples)][:examples] if examples else []:
        console.print(Text(f"\n{_end_of(prompt)}", style="cyan"))
        for name, answer in (("base   ", before), ("trained", after)):
            console.print(Text(f"  {name} {answer.reward:+.2f} ", style="dim") + Text(_flat(answer.response)))
    interval = comparison.difference
    console.print(
        Text(f"\nVerdict: {comparison.verdict}", style=f"bold {COLOURS[comparison.verdict]}")
        + Text(f" - the mean reward changed by {_span(interval)}, resampling {interval.resampled}.")
    )


MOST_SHOWN = 240
"""Characters of a prompt."""


def _span(interval: Interval) -> str:
    return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _end_of(prompt: str) -> str:
    """A prompt that is read at a glance: of a long one, as retrieval makes them, its end."""
    return prompt if len(prompt) <= MOST_SHOWN else f"... {_flat(prompt[-MOST_SHOWN:])}"


def _flat(text: str) -> str:
    return text.strip().replace("\n", " / ")

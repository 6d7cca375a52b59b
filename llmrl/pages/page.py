"""The page itself: one file with everything in it, light or dark as the reader has it. Text of models is text, never HTML."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from llmrl.files import replace_text

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c2e", "#7f6bd1")
"""Told apart by colour-blind people, too (after Okabe and Ito), on light and on dark."""
OTHER = "#8a9199"
LEGEND = {"orientation": "h", "yanchor": "top", "y": -0.25}
Figure = dict[str, Any]
"""`data` and `layout` as plotly takes them; the page adds its colours."""


def write(path: Path, title: str, summary: str, words: str, body: str, figures: Mapping[str, Figure]) -> Path:
    """Write a page. `body` is HTML, in which `plots` has made room for the figures; everything else is text. Returns `path`."""
    template = Template(resources.files("llmrl.pages").joinpath("template.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(title), summary=html.escape(summary), words=html.escape(words), body=body,
        figures=json.dumps(dict(figures), allow_nan=False).replace("</", "<\\/"),
        plotly=resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8"),
    )  # fmt: skip
    replace_text(path, page)
    return path


def plots(captions: Mapping[str, str]) -> str:
    """Room for figures: name to caption."""
    made = "\n".join(
        f'<figure><div class="plot" id="{name}"></div><figcaption>{html.escape(caption)}</figcaption></figure>'
        for name, caption in captions.items()
    )
    return f'<div class="plots">{made}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    """A table that scrolls by itself where it is too wide."""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<div class="scroll {kind}"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def layout(x: str, y: str) -> Figure:
    """Axes with titles."""
    return {
        "xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "legend": LEGEND, "hovermode": "closest",
    }  # fmt: skip


def curve(name: str, steps: Sequence[float], values: Sequence[float], colour: str) -> Figure:
    """A line; with markers where it would be hard to see."""
    return {
        "type": "scatter", "mode": "lines+markers" if len(steps) < 3 else "lines", "x": list(steps), "y": list(values),
        "name": name, "legendgroup": name, "line": {"color": colour, "width": 2},
    }  # fmt: skip


def band(name: str, steps: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> Figure:
    """The space between two lines, in a thin colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return {
        "type": "scatter", "x": [*steps, *steps[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "mode": "lines",
        "line": {"width": 0}, "fillcolor": f"rgba({red},{green},{blue},0.18)", "hoverinfo": "skip", "showlegend": False,
        "legendgroup": name,
    }  # fmt: skip

"""What several pages show. Text of models, documents, runs and visitors goes through here: it is text, never HTML."""

import html
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

import streamlit as st

from llmrl.config import ModelConfig
from llmrl.errors import RunError, UserError, one_line
from llmrl.serving.places import SMOLLM2, TINY, Run
from llmrl.serving.worker import Done, Tell, Told, Waiting
from llmrl.web.house import house

T = TypeVar("T")
DRAW_SECONDS = 0.1
WANTS_SOURCES = ("answer", "grounded", "cites", "abstain", "context_gain")
"""Rewards of a response to a question with sources, which a bare prompt has not."""
NAMES = {TINY: "tiny (7.6 M, ships with llmrl)", SMOLLM2: "SmolLM2-135M-Instruct"}


def model_name(name: str) -> str:
    """A base as a person calls it."""
    return NAMES.get(name) or name.rstrip("/").rsplit("/", 1)[-1]


def note(text: str, kind: str = "info") -> None:
    """A line of one's own or of an error; `kind` is info, warning or error."""
    role = "alert" if kind == "error" else "status"
    st.html(f'<div class="note {kind}" role="{role}">{html.escape(text)}</div>')


def said(text: str, ghost: str = "", marks: Sequence[tuple[int, int]] = ()) -> str:
    """Text as it is, line breaks and all, in a box; `marks` are highlighted, `ghost` stands before it in grey."""
    parts, at = [], 0
    for start, end in marks:
        parts += [html.escape(text[at:start]), "<mark>", html.escape(text[start:end]), "</mark>"]
        at = end
    before = f'<span class="ghost">{html.escape(ghost)}</span>' if ghost else ""
    return f'<div class="said">{before}{"".join(parts)}{html.escape(text[at:])}</div>'


def chips(values: Mapping[str, tuple[float, float | None, float]]) -> str:
    """Name to (value, the base's value, weight): what changed says by how much, and its colour whether that earns more."""
    made = []
    for name, (value, base, weight) in values.items():
        change = None if base is None else value - base
        kind = "" if change is None or abs(change) < 0.005 else "up" if change * weight >= 0 else "down"
        by = f" <b>{change:+.2f}</b>" if kind else ""
        made.append(f'<span class="chip {kind}">{html.escape(name)} {value:.2f}{by}</span>')
    return f'<div class="chips">{"".join(made)}</div>'


def rows(head: Sequence[str], cells: Sequence[Sequence[object]]) -> None:
    """A small table."""
    from llmrl.pages.page import table

    st.html(f'<div class="rows">{table(head, cells)}</div>')


def empty(what: str, next_step: str = "", command: str = "") -> None:
    """Where there is nothing to show: why, and what to do, in words or as a command."""
    step = f"<p>{html.escape(next_step)}</p>" if next_step else ""
    step += f"<p><code>{html.escape(command)}</code></p>" if command else ""
    st.html(f'<div class="empty"><p>{html.escape(what)}</p>{step}</div>')


def kept(key: str, options: Sequence[Any], default: Any) -> None:
    """Let a widget of that key begin with what was chosen before, as far as it is still among the options, else with `default`.

    To be called before the widget, which is given no default of its own; a list is several choices.
    """
    chosen = st.session_state.get(key, default)
    if isinstance(chosen, list):
        still = [each for each in chosen if each in options]
        st.session_state[key] = still if still or not chosen else default
    else:
        st.session_state[key] = chosen if chosen in options else default


def carried_out(
    work: Callable[[Tell], T], on_told: Callable[[Any], None], waiting: Any, draw: Callable[[], None] = lambda: None,
    long: bool = False,
) -> T | None:  # fmt: skip
    """Have the worker do it, and show what it tells. None where it could not be done, which is shown, whatever it was: a
    folder that goes while it is read, a file that is no model.

    `draw` shows what was told so far, the first of it at once and then some times a second: a browser keeps up with no more.

    Whatever the visitor does meanwhile ends it: Streamlit stops this script at its next word, and so the stream is closed.
    """
    try:
        drawn, place = 0.0, ""
        with closing(house().worker.stream(work, long)) as events:
            for event in events:
                if isinstance(event, Done):
                    return event.result
                if isinstance(event, Told):
                    on_told(event.what)
                    if time.monotonic() - drawn >= DRAW_SECONDS:
                        draw()
                        drawn = time.monotonic()
                elif place != (place := _waiting(event)):
                    waiting.html(f'<div class="waiting">{place}</div>')
                else:
                    st.session_state.get("seed")  # here, too, Streamlit stops a script whose visitor has gone
    except (UserError, RunError) as error:
        note(str(error), "error")
    except Exception as error:  # Streamlit's own, which end a script, are none
        note(f"it could not be done: {type(error).__name__}: {one_line(error)[:300]}", "error")
    finally:
        waiting.empty()
    return None


def told_of_another_base(base: ModelConfig, runs: Sequence[Run]) -> None:
    """Say so where a run was trained from other weights than the base has now."""
    sha256 = carried_out(lambda tell: house().shelf.sha256(base), lambda what: None, st.empty())
    for run in runs:
        if sha256 is not None and run.base_weights not in ("", sha256):
            note(f"{run.name} was trained from other weights than {model_name(base.name_or_path)} has now", "warning")


def _waiting(event: Waiting) -> str:
    if event.before and house().is_loading:
        return "loading the models"
    return f"{event.before} before you" if event.before else "at work"

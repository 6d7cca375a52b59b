"""Runs and sweeps: what there is, how each went, and in what two of them differ."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, cast

import streamlit as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from llmrl.config.commands import flat
from llmrl.errors import UserError, one_line
from llmrl.serving.places import Run, read_evaluation, read_metrics
from llmrl.web.house import house
from llmrl.web.parts import empty, kept, model_name, note, rows, said

LIVE_SECONDS = 2
NEWS_SECONDS = 5  # until a run that has begun or ended is in the table
MOST = 6  # runs whose curves are drawn together
PAIRS = 8
OVERLAID = (
    ("Reward", "objective/scores"), ("Held-out reward", "eval/reward"), ("KL to the base", "objective/kl"),
    ("Length", "response/length"), ("Entropy", "policy/entropy"),
)  # fmt: skip


def page() -> None:
    st.title("Runs", anchor=False)
    runs, sweeps = house().places.runs(), house().places.sweeps()
    counts = [f"{len(each)} {name}{'' if len(each) == 1 else 's'}" for each, name in ((runs, "run"), (sweeps, "sweep"))]
    st.caption(f"{' and '.join(counts)}, newest first. Look at one for its curves and pairs, at two for their differences.")
    chosen = _chosen(_table(runs), runs)
    if not runs[:-1]:
        empty("You have no run of your own yet.", command="python -m llmrl.train experiment=quickstart")
    if chosen:
        _curves([run.name for run in chosen])
        if len(chosen) == 1:
            _one(chosen[0])
        elif len(chosen) == 2:
            _differences(*chosen)
    if sweeps:
        _sweep(sweeps)
    _follow(_news(runs))


@st.fragment(run_every=NEWS_SECONDS)
def _follow(shown: list[tuple[str, str]]) -> None:
    """Draw the page anew when a run has come, gone or ended."""
    if _news(house().places.runs()) != shown:
        st.rerun()


def _news(runs: Sequence[Run]) -> list[tuple[str, str]]:
    return [(run.name, run.status) for run in runs]


def _table(runs: Sequence[Run]) -> list[Run]:
    """Those that fit the filter."""
    first, second = st.columns([3, 1])
    words = first.text_input("Filter", placeholder="part of a name, model, reward or verdict").lower().split()
    states = second.multiselect("Status", sorted({run.status for run in runs}), placeholder="any")
    fitting = [
        run for run in runs
        if all(word in " ".join([run.name, run.model, *run.rewards, run.verdict or ""]).lower() for word in words)
        and (not states or run.status in states)
    ]  # fmt: skip
    if not fitting:
        empty("No run fits the filter.", "Shorten or clear it.")
        return []
    seconds, started = st.column_config.NumberColumn(format="%.0f"), st.column_config.DatetimeColumn()
    columns = {"seconds": seconds, "started": started}
    st.dataframe([_row(run) for run in fitting], hide_index=True, column_config=columns, placeholder="")
    return fitting


def _chosen(fitting: Sequence[Run], runs: Sequence[Run]) -> list[Run]:
    """Those that the visitor looks at; what he chose stays chosen when runs come and go, and whatever the filter hides."""
    by_name, before = {run.name: run for run in runs}, st.session_state.get("looked at", [])
    for name in before:
        if name not in by_name:
            note(f"the run {name} has gone", "warning")
    names = [run.name for run in runs if run in fitting or run.name in before]
    kept("looked at", names, names[:1])
    names = st.multiselect(
        "Look at", names, max_selections=MOST, placeholder="choose runs", key="looked at", persist_state="session"
    )
    return [by_name[name] for name in names]


def _row(run: Run) -> dict[str, Any]:
    gap = run.difference or {}
    return {
        "run": run.name, "status": run.status, "model": model_name(run.model), "reward": ", ".join(run.rewards),
        "verdict": run.verdict, "base": _rounded(run.base_reward), "trained": _rounded(run.reward),
        "difference": _rounded(gap.get("mean")), "low": _rounded(gap.get("low")), "high": _rounded(gap.get("high")),
        "KL": _rounded(run.kl), "steps": run.steps, "seed": run.seed, "seconds": run.seconds, "started": run.started or None,
    }  # fmt: skip


def _rounded(value: Any) -> float | None:
    return round(float(value), 3) if isinstance(value, int | float) else None


def _find(names: Sequence[str]) -> list[Run]:
    """Read anew, as they go on while they are looked at. Says so where one has gone."""
    found = {name: house().places.run(name) for name in names}
    for name, run in found.items():
        if run is None:
            note(f"the run {name} has gone", "warning")
    return [run for run in found.values() if run is not None]


def _curves(names: Sequence[str]) -> None:
    running = any(run.status == "running" for run in _find(names))
    draw = st.fragment(_draw, run_every=LIVE_SECONDS if running else None)
    if running:
        st.caption(f"One of them is running: the curves are drawn anew every {LIVE_SECONDS} seconds.")
    draw(names)


def _draw(names: Sequence[str]) -> None:
    from llmrl.pages.page import COLOURS, curve, layout
    from llmrl.pages.run import figures_of

    runs = _find(names)
    logged = {run.name: read_metrics(run.folder) for run in runs}
    if not any(logged.values()):
        empty("Nothing has been logged yet.", "It comes after the first step.")
        return
    if len(runs) == 1:
        try:
            figures = dict(figures_of(logged[runs[0].name]).values())
        except (KeyError, TypeError, ValueError) as error:
            note(f"what {runs[0].name} logged can't be read: {one_line(error)}", "error")
            return
    else:
        figures = {
            title: {
                "data": [
                    curve(name, *_points(lines, metric), COLOURS[place % len(COLOURS)])
                    for place, (name, lines) in enumerate(logged.items()) if any(metric in line for line in lines)
                ],
                "layout": layout("step", ""),
            }
            for title, metric in OVERLAID if any(metric in line for lines in logged.values() for line in lines)
        }  # fmt: skip
    columns = st.columns(2)
    for place, (caption, figure) in enumerate(figures.items()):
        with columns[place % 2]:
            st.caption(caption)
            figure["layout"] = {**figure["layout"], "height": 300}
            figure["data"] = [_as_text(trace) for trace in figure["data"]]
            st.plotly_chart(figure, key=f"curve {place}", config={"displaylogo": False, "displayModeBar": False})


def _as_text(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Plotly reads the names of curves and bars as HTML; here they are text."""

    def text(value: Any) -> Any:
        return html.escape(value, quote=False) if isinstance(value, str) else value

    names = {key: text(trace[key]) for key in ("name", "legendgroup") if key in trace}
    return {**trace, **names, **{axis: [text(each) for each in trace[axis]] for axis in ("x", "y") if axis in trace}}


def _points(lines: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[float], list[float]]:
    those = [line for line in lines if metric in line]
    return [line["step"] for line in those], [line[metric] for line in those]


def _one(run: Run) -> None:
    evaluation = read_evaluation(run.folder)
    if evaluation is None:
        return
    st.subheader("Held-out pairs, unpicked", anchor=False)
    pairs = evaluation.get("pairs", [])
    try:
        for prompt, base, trained in pairs[:: max(1, len(pairs) // PAIRS)][:PAIRS]:
            st.html(said(prompt[-300:]))
            left, right = st.columns(2)
            for column, title, answer in ((left, "base", base), (right, "trained", trained)):
                column.html(f'<div class="meta">{title}, reward {answer["reward"]:+.2f}</div>{said(answer["response"])}')
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        note(f"its pairs can't be read: {one_line(error)}", "error")


def _differences(first: Run, second: Run) -> None:
    st.subheader("What differs", anchor=False)
    told = []
    for run in (first, second):
        try:  # as it was written; nothing that it names is run
            read = OmegaConf.to_container(OmegaConf.load(run.folder.path / "config.yaml"), resolve=False)
            told.append(dict(flat(cast(dict[str, Any], read))))
        except (OSError, ValueError, YAMLError, OmegaConfBaseException, AttributeError) as error:
            note(f"the config of {run.name} can't be read: {one_line(error)[:300]}", "error")
            return
    keys = [key for key in sorted(told[0].keys() | told[1].keys()) if told[0].get(key) != told[1].get(key)]
    if not keys:
        note("their configs are the same: what differs is chance, or the code")
        return
    rows(("option", first.name, second.name), [(key, _shown(told[0].get(key)), _shown(told[1].get(key))) for key in keys])


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _sweep(names: Sequence[str]) -> None:
    from llmrl.sweeps.conclude import read_all
    from llmrl.sweeps.words import HEAD, row, sayings

    st.subheader("Sweeps", anchor=False)
    name = st.selectbox("Sweep", names)
    try:
        results, rankings, matters = read_all(house().places.inside(name))
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:  # half deleted, or of another version
        note(f"the sweep can't be read: {one_line(error)[:300]}", "error")
        return
    states = [result.status for result in results]
    st.text(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    for ranking in rankings:
        st.text(ranking.reward_name)
        rows(HEAD, [row(place, group) for place, group in enumerate(ranking.groups, 1)])
        for line in sayings(ranking, matters[ranking.reward_name]):
            st.text(line)
    if not rankings:
        empty("No job of it has come to its end yet.", command=f"python -m llmrl.train sweep.resume={name}")

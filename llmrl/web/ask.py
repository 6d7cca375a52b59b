"""A question answered without sources, with them, and with them by a trained model: one base throughout."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st
from omegaconf import OmegaConf

from llmrl.config import CONF_DIR, AskConfig, ModelConfig, PromptingConfig, RetrieverConfig, RolloutConfig
from llmrl.errors import UserError
from llmrl.serving.limits import checked_text
from llmrl.serving.places import SMOLLM2, TINY, Run
from llmrl.serving.response import Piece
from llmrl.serving.uploads import FOLDER, KINDS, MOST_FILES, check_files, refuse_if_full
from llmrl.serving.worker import Tell
from llmrl.web.house import DEMO, house, pace
from llmrl.web.parts import carried_out, empty, kept, model_name, note, said, told_of_another_base

if TYPE_CHECKING:
    from llmrl.rollout.ask import Answer
    from llmrl.serving.answers import Arms

TITLES = {"alone": "base, no sources", "base": "base, with sources", "trained": "trained, with sources"}
DEMO_QUESTION = "What did Becquerel find on the photographic plate from the drawer?"
NONE = ""
"""No run beside the base."""
AROUND = 1500  # characters of a document that are shown on either side of a chunk


@dataclass
class Shown:
    """What came of a question."""

    question: str
    index: str
    base: str
    run: str  # its name, or nothing
    arms: "Arms"
    documents: dict[str, str]  # path to text


def page() -> None:
    st.title("Ask", anchor=False)
    st.caption("Retrieval beside none: the same base, with and without what was found, and what training made of it.")
    index, base, run = _choices()
    if st.session_state.get("asked of") != index:  # a question that nobody typed goes with its index
        if st.session_state.get("question", "") in ("", DEMO_QUESTION):
            st.session_state.question = DEMO_QUESTION if index == DEMO else ""
        st.session_state["asked of"] = index
    with st.form("ask", border=False):
        question = st.text_input("Question", key="question", placeholder="Ask the documents something", persist_state="session")
        asked = st.form_submit_button("Ask", type="primary")
    with st.container():
        if asked:
            _answer(question, index, base, run)
        elif (shown := st.session_state.get("asked")) is not None:
            _show(shown)
        else:
            empty(
                "Nothing was asked yet.", "Press Ask to try the question above." if question else "Write a question, press Ask."
            )
    _upload()


def _choices() -> tuple[str, str, Run | None]:
    """(index, base, what was trained from it or None)."""
    runs = [run for run in house().places.runs() if run.has_model]
    bases = house().places.bases(runs)
    first, second, third = st.columns(3)
    indexes = house().indexes()
    new = st.session_state.pop("new index", None)
    if new in indexes:
        st.session_state["index"] = new
    kept("index", indexes, DEMO)
    index = first.selectbox("Index", indexes, format_func=_index_name, key="index", persist_state="session")
    kept("base to ask", bases, SMOLLM2 if SMOLLM2 in bases else bases[0])
    base = second.selectbox("Base", bases, format_func=model_name, key="base to ask", persist_state="session")
    fitting = {run.name: run for run in runs if run.model == base}
    kept(f"run of {base}", [NONE, *fitting], next(iter(fitting), NONE))
    name = third.selectbox(
        "Trained from it", [NONE, *fitting], format_func=lambda each: each or "none", key=f"run of {base}",
        persist_state="session",
    )  # fmt: skip
    hint = st.empty()  # there or not, what stands below keeps its place, and stays open
    if not fitting:
        way = "experiment=rag_grounded" if base == SMOLLM2 else f"model.name_or_path={base}"
        hint.caption(
            f"Nothing was trained from {model_name(base)} yet: `python -m llmrl.train {way}`. A model of this size is often "
            "wrong, with sources, too: look at what they change."
        )
    if base == TINY:
        hint.caption(
            "The tiny model writes simple stories; it can't answer questions. SmolLM2-135M can, a little: "
            "`python scripts/fetch_models.py smollm2`, or train from it."
        )
    return index, base, fitting[name] if name else None


def _index_name(index: str) -> str:
    """As the visitor who uploaded it called it."""
    return index.removeprefix(f"{FOLDER}/").removesuffix("/index") if index.startswith(f"{FOLDER}/") else index


def _settings(index: str, base: str) -> AskConfig:
    """As the command has them, but for the model and the index."""
    prompting = PromptingConfig(**OmegaConf.to_container(OmegaConf.load(CONF_DIR / "prompting" / "sources.yaml")))  # type: ignore[arg-type]
    return AskConfig(
        index=index, model=ModelConfig(name_or_path=base), retriever=RetrieverConfig(name="auto", index=index),
        rollout=RolloutConfig(max_new_tokens=min(96, house().config.max_new_tokens)), prompting=prompting,
    )  # fmt: skip


def _answer(question: str, index: str, base: str, run: Run | None) -> None:
    try:
        pace().step()
        question = checked_text(question, house().config.max_characters, "question")
    except UserError as error:
        note(str(error), "error")
        return
    stop, names = st.empty(), ["alone", "base", *(["trained"] if run else [])]
    stop.button("Stop")
    told_of_another_base(ModelConfig(name_or_path=base), [run] if run else [])
    boxes, waiting, so_far = _boxes(names, base, run.name if run else ""), st.empty(), dict.fromkeys(names, "")

    def told(piece: Piece) -> None:
        so_far[piece.at] += piece.text

    def draw() -> None:
        for name, text in so_far.items():
            boxes[name].html(said(text))

    def work(tell: Tell) -> Shown:
        from llmrl.serving.answers import ask_all

        folder, shelf = str(house().index(index)), house().shelf
        trained = ModelConfig(name_or_path=str(run.folder.path)) if run else None
        arms = ask_all(shelf, _settings(folder, base), trained, question, tell)
        searcher = shelf.searcher(RetrieverConfig(name="auto", index=folder))
        paths = {source.hit.chunk.path for source in arms.base.sources}
        texts = {path: searcher.index.store.text_of(path) or "" for path in paths}
        return Shown(question, index, base, run.name if run else "", arms, texts)

    shown = carried_out(work, told, waiting, draw)
    stop.empty()
    if shown is not None:
        st.session_state.asked = shown
        _fill(boxes, shown)
        _sources(shown)


def _boxes(names: list[str], base: str, run: str) -> dict[str, Any]:
    boxes = {}
    for name, column in zip(names, st.columns(len(names)), strict=True):
        with column:
            st.html(f"<strong>{TITLES[name]}</strong>")
            st.text(run if name == "trained" else model_name(base))
            boxes[name] = st.empty()
            boxes[name].html(said(""))
    return boxes


def _fill(boxes: dict[str, Any], shown: Shown) -> None:
    boxes["alone"].html(said(shown.arms.alone or "(nothing)"))
    for name in ("base", "trained"):
        answer: Answer | None = getattr(shown.arms, name)
        if answer is not None:
            boxes[name].html(said(answer.text) + _below(answer))


def _below(answer: "Answer") -> str:
    """What is to be known of an answer: how much of it stands in its sources, why it is none, what was said."""
    if answer.abstained:
        own = answer.said and answer.said != answer.text
        said_itself = f"<details><summary>what it said</summary>{said(answer.said)}</details>" if own else ""
        return f'<div class="meta">{html.escape(answer.abstained)}</div>{said_itself}'
    cited = f", cites {', '.join(f'[{number}]' for number in answer.cited)}" if answer.cited else ""
    said_so = f"{answer.grounded:.0%} of its words stand in the sources{cited}: that does not make it right"
    return f'<div class="meta">{said_so}</div>'


def _show(shown: Shown) -> None:
    st.text(shown.question)
    st.caption(f"asked of {_index_name(shown.index)}")
    boxes = _boxes(["alone", "base", *(["trained"] if shown.arms.trained else [])], shown.base, shown.run)
    _fill(boxes, shown)
    _sources(shown)


def _sources(shown: Shown) -> None:
    answers = [each for each in (shown.arms.base, shown.arms.trained) if each is not None]
    sources = shown.arms.base.sources
    st.subheader("Sources", anchor=False)
    if not sources:
        empty(f"Nothing in {shown.index} fits this question.", "Ask in the documents' own words, or choose another index.")
    for source in sources:
        chunk = source.hit.chunk
        used = " · cited" if any(source.number in each.cited for each in answers) else (
            " · shares words" if any(source.number in each.supported_by for each in answers) else ""
        )  # fmt: skip
        with st.expander(f"Source {source.number}{used}", expanded=source.number == 1):
            st.text(f"{chunk.path}{', ' + chunk.heading if chunk.heading else ''}")
            scores = ", ".join(f"{name} {value:.3f}" for name, value in source.hit.scores.items())
            st.html(f'<div class="meta">score {source.hit.score:.3f}{f" ({scores})" if scores else ""}, '
                    f"characters {chunk.start} to {chunk.end}</div>")  # fmt: skip
            text = shown.documents.get(chunk.path, "")
            start, end = max(0, chunk.start - AROUND), chunk.end + AROUND
            marked = said(text[start:end], marks=[(chunk.start - start, chunk.end - start)])
            st.html(f'<div class="scroll-box">{marked}</div>')


def _upload() -> None:
    config = house().config
    with st.expander("Your own documents"):
        st.caption(
            f"{', '.join(KINDS)}; at most {MOST_FILES} files with {config.max_upload_mb} MB together. They stay in the "
            "folder that is served: everybody who can open this page can search and read them."
        )
        name = st.text_input("Name of the index", "my documents", max_chars=60)
        number = st.session_state.setdefault("uploader", 0)
        files = st.file_uploader(
            "Documents", list(KINDS), accept_multiple_files=True, max_upload_size=config.max_upload_mb, key=f"uploader {number}"
        )
        if files and (why := _refused(files)):
            st.session_state.uploader, st.session_state["of uploads"] = number + 1, [(why, "error")]
            st.rerun()  # with an empty uploader: what was refused is not kept
        for text, kind in st.session_state.pop("of uploads", []):
            note(text, kind)
        if st.button("Make the index"):
            _make(name, files or [])


def _refused(files: Sequence[Any]) -> str:
    """Why these files are not taken; empty if they are."""
    try:
        check_files([(file.name, file.size) for file in files], house().config.max_upload_mb)
    except UserError as error:
        return str(error)
    return ""


def _make(name: str, files: Sequence[Any]) -> None:
    config, places = house().config, house().places
    try:
        pace().step()
        check_files([(file.name, file.size) for file in files], config.max_upload_mb)
        refuse_if_full(places, sum(file.size for file in files), config.max_uploads_mb)
    except UserError as error:
        note(str(error), "error")
        return
    stop, bar, waiting = st.empty(), st.progress(0.0, "reading"), st.empty()
    stop.button("Stop", key="stop reading")

    def told(event: Any) -> None:
        what, done, total = event
        bar.progress(min(1.0, done / max(total, 1)), f"{what}: {done} of {total}" if total else str(what))

    def work(tell: Tell) -> Any:
        from llmrl.serving.indexing import make_index_of_files  # here, as it loads torch

        def told_so(event: object) -> None:
            tell(event)
            tell.let_others()

        return make_index_of_files(places, name, [(file.name, file.getvalue()) for file in files], told_so)

    done = carried_out(work, told, waiting, long=True)
    stop.empty()
    bar.empty()
    if done is None:
        return
    told_later = [(f"left out: {path}: {reason}", "warning") for path, reason in done.skipped]
    if done.counts["chunks"]:
        st.session_state["new index"] = f"uploads/{name.strip()}/index"
        st.session_state.uploader += 1
        told_later.append((f"{done.counts['documents']} documents in {done.counts['chunks']} chunks: ask them above", "info"))
    else:
        told_later.append(("no file of it has any text: there is nothing to find", "warning"))
    st.session_state["of uploads"] = told_later
    st.rerun()  # the indexes above are drawn anew

"""The app as a visitor has it: a real server, a real browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from omegaconf import OmegaConf
from playwright.sync_api import Browser, Page, expect

from llmrl.config import packaged
from llmrl.rewards import Sample
from llmrl.rewards.no_repeat import NoRepeat
from llmrl.serving.indexing import make_index
from tests.browser import browser, complaints
from tests.conftest import ROOT

EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
TINY_NAME = "tiny (7.6 M, ships with llmrl)"
SECONDS = 60_000  # milliseconds that anything may take on a busy machine


@dataclass
class Site:
    url: str
    outputs: Path
    log: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server of its own, with a run of the visitor's besides the example; what the run says is not to be trusted."""
    folder = tmp_path_factory.mktemp("app")
    run = folder / "outputs" / "mine"
    shutil.copytree(packaged("packaged:example_run"), run)
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    evaluation["pairs"][0][1]["response"] = EVIL
    metrics = (run / "metrics.jsonl").read_text(encoding="utf-8")
    link = "time/<a href='https://evil.example'>here</a>_s"
    (run / "metrics.jsonl").write_text(metrics.replace('"time/rollout_s"', json.dumps(link)), encoding="utf-8")
    (run / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    config = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(config.replace("seed: 0\n", "seed: 7\n", 1), encoding="utf-8")
    with started(folder) as made:
        yield made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def page(site: Site, chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    made = context.new_page()
    found = complaints(made)
    made.goto(site.url)
    made.get_by_role("button", name="Answer").wait_for(timeout=SECONDS)
    yield made
    assert made.title() != "taken"
    assert found == []
    context.close()


class started:  # noqa: N801  (used as a function is)
    def __init__(self, folder: Path, *words: str) -> None:
        self.words = words
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder

    def __enter__(self) -> Site:
        log = self.folder / "log.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmrl.app", f"port={self.port}", *self.words], cwd=self.folder, stdout=log.open("w"),
            stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        url = f"http://localhost:{self.port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(url, timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        return Site(url, self.folder / "outputs", log)

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) in (0, 130)
        assert "Traceback" not in (self.folder / "log.txt").read_text(encoding="utf-8")


def go(page: Page, name: str) -> None:
    page.get_by_role("link", name=name).click()
    page.get_by_role("heading", name=name, exact=True).wait_for(timeout=SECONDS)
    idle(page)  # a page that still grows moves away under the pointer


def unfold(page: Page, name: str) -> None:
    page.get_by_text(name).click()
    page.wait_for_timeout(600)  # what is in it moves until it is open


def write(page: Page, prompt: str) -> None:
    box = page.get_by_role("textbox", name="Prompt")
    box.fill(prompt)
    box.blur()
    idle(page)


def idle(page: Page) -> None:
    """Until the page's script has come to its end and stays there."""
    page.wait_for_timeout(250)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=SECONDS)


def answers(page: Page, prompt: str) -> list[str]:
    """Of both models to one prompt, when they have come to their end."""
    page.wait_for_function(
        "prompt => [...document.querySelectorAll('.said')].every(box => box.innerText.startsWith(prompt))"
        " && (document.body.innerText.match(/ tokens, /g) || []).length == 2", arg=prompt, timeout=SECONDS,
    )  # fmt: skip
    idle(page)
    return [each.inner_text() for each in page.locator(".said").all()]


def test_base_and_trained_answer_the_same_prompt(page: Page) -> None:
    write(page, "The old boat")
    page.get_by_role("button", name="Answer").click()
    first = answers(page, "The old boat")
    assert all(len(each) > 30 for each in first)
    assert first[0] != first[1]
    assert page.locator(".chip").count() == 2
    page.get_by_role("button", name="Answer").click()
    idle(page)
    assert answers(page, "The old boat") == first  # the same seed, the same words
    page.get_by_role("button", name="Again with another seed").click()
    idle(page)
    assert answers(page, "The old boat")[0] != first[0]
    expect(page.get_by_text("Traceback")).to_have_count(0)


def test_an_average_has_an_interval_and_a_verdict(page: Page) -> None:
    write(page, "A dog\nThe rain")
    page.get_by_role("button", name="Average over many").click()
    page.locator(".verdict").wait_for(timeout=SECONDS)
    idle(page)
    assert " to " in page.locator(".verdict").inner_text()
    assert "64 responses of each" in page.locator("body").inner_text()
    assert "KL to the base" in page.locator("body").inner_text()


@pytest.mark.parametrize(
    ("prompt", "why"),
    [("   \n  ", "the prompt is empty"), ("word " * 200_000, "the prompt has"), ("\n".join("abcdefghijklmnopq"), "17 prompts")],
    ids=["spaces", "a megabyte", "too many"],
)
def test_prompts_that_are_none_are_refused(page: Page, prompt: str, why: str) -> None:
    page.get_by_role("textbox", name="Prompt").evaluate(
        "(box, text) => { Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(box, text);"
        "box.dispatchEvent(new Event('input', {bubbles: true})); box.focus(); box.blur() }", prompt,
    )  # fmt: skip
    idle(page)
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_role("alert").first).to_contain_text(why, timeout=SECONDS)


def test_script_tags_are_text(page: Page) -> None:
    write(page, EVIL)
    page.get_by_role("button", name="Answer").click()
    assert len(answers(page, EVIL)) == 2
    go(page, "Runs")
    expect(page.get_by_text("onerror").first).to_be_visible(timeout=SECONDS)


def test_a_request_can_be_stopped_and_the_next_is_served(page: Page) -> None:
    unfold(page, "Seed and decoding")
    slider = page.get_by_role("slider", name="Tokens at most")
    slider.focus()
    slider.press("End")
    idle(page)
    write(page, "\n".join(f"Chapter {number}" for number in range(16)))
    page.get_by_role("button", name="Answer").click()
    page.get_by_role("button", name="Stop").click(timeout=SECONDS)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0, timeout=SECONDS)
    assert page.get_by_text("tokens,").count() < 32
    write(page, "The end")
    page.get_by_role("button", name="Answer").click()
    assert len(answers(page, "The end")) == 2


def test_two_visitors_do_not_mix(site: Site, chromium: Browser) -> None:
    contexts = [chromium.new_context() for _ in range(2)]
    pages = [context.new_page() for context in contexts]
    alone = {}
    for number, page in enumerate(pages):
        page.goto(site.url)
        page.get_by_role("button", name="Answer").wait_for(timeout=SECONDS)
        write(page, f"Visitor {number} walked")
        page.get_by_role("button", name="Answer").click()
        alone[number] = answers(page, f"Visitor {number} walked")
    for page in pages:
        page.get_by_role("button", name="Answer").click(no_wait_after=True)
    for number, page in enumerate(pages):
        idle(page)
        assert answers(page, f"Visitor {number} walked") == alone[number]
    for context in contexts:
        context.close()


def test_a_question_is_answered_with_and_without_sources(page: Page) -> None:
    go(page, "Ask")
    choose(page, "Base", "tiny")
    choose(page, "Trained from it", "mine")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("Source 1")).to_be_visible(timeout=SECONDS)
    assert "radioactivity" in page.locator("body").inner_text()
    assert "Becquerel" in page.locator("mark").first.inner_text()
    titles = [each.inner_text() for each in page.locator("strong").all()]
    assert titles[:3] == ["base, no sources", "base, with sources", "trained, with sources"]
    choose(page, "Trained from it", "none")  # what stands below still says whose answers they are
    expect(page.get_by_text("asked of demo")).to_be_visible(timeout=SECONDS)
    assert [each.inner_text() for each in page.get_by_test_id("stText").all()][1:4] == [TINY_NAME, TINY_NAME, "mine"]
    assert all(box.inner_text().strip() for box in page.locator(".said:visible").all()[:3])


def choose(page: Page, label: str, option: str) -> None:
    idle(page)
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option).first.click(timeout=SECONDS)
    idle(page)


def test_documents_are_uploaded_and_asked(page: Page, site: Site) -> None:
    go(page, "Ask")
    choose(page, "Base", "tiny")
    unfold(page, "Your own documents")
    page.get_by_role("textbox", name="Name of the index").fill("herons")
    page.locator("input[type=file]").set_input_files(
        [
            {
                "name": "../../heron.md",
                "mimeType": "text/markdown",
                "buffer": b"# Herons\n\nA heron stands still in the shallows.",
            },
            {"name": "empty.txt", "mimeType": "text/plain", "buffer": b""},
        ]
    )
    idle(page)
    page.get_by_role("button", name="Make the index").click()
    expect(page.get_by_text("1 documents in 1 chunks: ask them above")).to_be_visible(timeout=SECONDS)
    expect(page.get_by_text("left out: empty.txt")).to_be_visible(timeout=SECONDS)
    assert (site.outputs / "uploads" / "herons" / "docs" / "heron.md").is_file()
    assert page.get_by_role("combobox", name="Index").input_value() == "herons"
    page.get_by_role("textbox", name="Question").fill("Where does the heron stand?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("heron.md").first).to_be_visible(timeout=SECONDS)


def test_an_index_without_a_word_says_so(page: Page, site: Site) -> None:
    (site.outputs / "nothing").mkdir()
    make_index(site.outputs / "nothing", site.outputs / "silent", lambda told: None)
    go(page, "Ask")
    choose(page, "Base", "tiny")
    choose(page, "Index", "silent")
    page.get_by_role("textbox", name="Question").fill("Is there anything?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("Nothing in silent fits this question.")).to_be_visible(timeout=SECONDS)


def test_uploads_that_are_none_are_refused_and_leave_nothing(page: Page, site: Site, tmp_path: Path) -> None:
    go(page, "Ask")
    unfold(page, "Your own documents")
    page.get_by_role("textbox", name="Name of the index").fill("nothing")
    page.get_by_role("button", name="Make the index").click()
    expect(page.get_by_role("alert")).to_contain_text("choose at least one file", timeout=SECONDS)
    many = [{"name": f"{number}.txt", "mimeType": "text/plain", "buffer": b"a"} for number in range(51)]
    page.locator("input[type=file]").set_input_files(many)  # type: ignore[arg-type]
    expect(page.get_by_role("alert")).to_contain_text("51 files; 50 at a time are the most", timeout=SECONDS)
    expect(page.get_by_test_id("stFileUploaderFile")).to_have_count(0, timeout=SECONDS)
    idle(page)  # the box that held them is gone only then
    expect(page.locator("input[type=file]")).to_have_count(1, timeout=SECONDS)
    huge = tmp_path / "huge.txt"
    with huge.open("wb") as file:
        file.truncate(500_000_000)  # holes, which take no room
    page.locator("input[type=file]").set_input_files(huge)
    expect(page.get_by_text("File must be 20.0MB or smaller.")).to_be_visible(timeout=SECONDS)
    page.locator("input[type=file]").set_input_files({"name": "empty.txt", "mimeType": "text/plain", "buffer": b" "})
    idle(page)
    page.get_by_role("button", name="Make the index").click()
    expect(page.get_by_text("there is nothing to find")).to_be_visible(timeout=SECONDS)
    assert not (site.outputs / "uploads" / "nothing").exists()


def test_the_server_takes_no_more_than_a_browser_would(page: Page) -> None:
    """The address that a small file was uploaded to takes no large one."""
    go(page, "Ask")
    unfold(page, "Your own documents")
    with page.expect_request(lambda request: request.method == "PUT") as seen:
        page.locator("input[type=file]").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"})
    assert seen.value.response().status < 300  # type: ignore[union-attr]
    told = page.context.request.put(
        seen.value.url, headers={key: seen.value.headers[key] for key in seen.value.headers if key.startswith("x-")},
        multipart={"file": {"name": "a.txt", "mimeType": "text/plain", "buffer": b"x" * 25_000_000}}, timeout=SECONDS,
    )  # fmt: skip
    assert told.status == 413


def test_runs_are_filtered_and_compared(page: Page) -> None:
    go(page, "Runs")
    page.get_by_text("2 runs").wait_for(timeout=SECONDS)
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=SECONDS)
    expect(page.get_by_text("Held-out pairs, unpicked")).to_be_visible(timeout=SECONDS)
    choose(page, "Look at", "the example that comes with llmrl")
    page.keyboard.press("Escape")
    expect(page.get_by_text("What differs")).to_be_visible(timeout=SECONDS)
    cells = [each.inner_text() for each in page.locator(".rows td").all()]
    assert cells[0] in ("seed", "evaluation.seed")
    assert cells[1:] == ["7", "0"]
    page.get_by_role("textbox", name="Filter").fill("nobody has this")
    page.get_by_role("textbox", name="Filter").blur()
    expect(page.get_by_text("No run fits the filter.")).to_be_visible(timeout=SECONDS)
    idle(page)
    page.get_by_role("textbox", name="Filter").fill("")
    page.get_by_role("textbox", name="Filter").blur()
    expect(page.get_by_text("What differs")).to_be_visible(timeout=SECONDS)


def test_what_a_run_logged_is_text_in_its_curves(page: Page) -> None:
    go(page, "Runs")
    page.get_by_text("Held-out pairs, unpicked").wait_for(timeout=SECONDS)
    page.wait_for_function("[...document.querySelectorAll('.js-plotly-plot')].length > 3", timeout=SECONDS)
    expect(page.locator(".js-plotly-plot").filter(has_text="<a href=")).to_have_count(1, timeout=SECONDS)  # as it was written
    assert page.locator(".js-plotly-plot a[*|href*=evil]").count() == 0


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("config.yaml", "reward: null\n"), ("config.yaml", "seed: [\n"),
        ("evaluation.json", '{"difference": 0.5, "verdict": 3, "pairs": [1]}'),
        ("metrics.jsonl", '{"objective/scores": 1}\n[]\n{"step": 1, "objective/scores": "much"}\n'),
    ],
)  # fmt: skip
def test_a_damaged_run_breaks_no_page(page: Page, site: Site, file: str, what: str) -> None:
    damaged = site.outputs / "damaged"
    shutil.copytree(packaged("packaged:example_run"), damaged)
    record = json.loads((damaged / "run.json").read_text(encoding="utf-8"))
    (damaged / "run.json").write_text(json.dumps({**record, "started": "2998"}), encoding="utf-8")
    (damaged / file).write_text(what, encoding="utf-8")
    try:
        page.reload()
        expect(page.get_by_role("button", name="Average over many")).to_be_visible(timeout=SECONDS)
        go(page, "Runs")
        expect(page.get_by_test_id("stMultiSelect").filter(has_text="Look at")).to_contain_text("damaged", timeout=SECONDS)
        choose(page, "Look at", "mine")
        page.keyboard.press("Escape")
        expect(page.get_by_text("What differs")).to_be_visible(timeout=SECONDS)
        assert page.get_by_test_id("stException").count() == 0
    finally:
        shutil.rmtree(damaged)


def test_looking_at_a_run_runs_nothing_that_it_names(page: Page, site: Site, tmp_path: Path) -> None:
    """Its own reward is a file: it is run when it is chosen, and not before."""
    (tmp_path / "own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\ndef mine(sample):\n    return 3.25\n", encoding="utf-8"
    )
    run = site.outputs / "own"
    shutil.copytree(packaged("packaged:example_run"), run)
    for name, change in (("run.json", {"started": "2998"}), ("evaluation.json", {"components": {"python": {}}})):
        record = json.loads((run / name).read_text(encoding="utf-8"))
        (run / name).write_text(json.dumps({**record, **change}), encoding="utf-8")
    config = OmegaConf.load(run / "config.yaml")
    config.reward = {"python": {"function": f"{tmp_path / 'own.py'}:mine", "parameters": {}, "weight": 1.0}}
    OmegaConf.save(config, run / "config.yaml")
    try:
        page.reload()
        page.get_by_role("button", name="Answer").wait_for(timeout=SECONDS)
        page.get_by_text("Rewards", exact=True).click()
        expect(page.get_by_text("a Python function of its own")).to_be_visible(timeout=SECONDS)
        go(page, "Runs")
        page.get_by_text("Held-out pairs, unpicked").wait_for(timeout=SECONDS)
        go(page, "Compare")
        page.get_by_text("Rewards", exact=True).click()
        assert not (tmp_path / "ran").exists()
        choose(page, "Scored by", "python")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Answer").click()
        expect(page.get_by_text("python 3.25").first).to_be_visible(timeout=SECONDS)
    finally:
        shutil.rmtree(run)


def test_what_was_chosen_is_there_after_another_page(page: Page) -> None:
    write(page, "The grey cat")
    unfold(page, "Seed and decoding")
    page.get_by_label("Seed", exact=True).fill("41")
    page.get_by_label("Seed", exact=True).press("Enter")
    idle(page)
    go(page, "Play with rewards")
    go(page, "Compare")
    assert page.get_by_role("textbox", name="Prompt").input_value() == "The grey cat"
    unfold(page, "Seed and decoding")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("41", timeout=SECONDS)


def test_an_average_that_can_not_be_taken_leaves_what_was_shown(page: Page) -> None:
    write(page, "The red hen")
    page.get_by_role("button", name="Answer").click()
    shown = answers(page, "The red hen")
    unfold(page, "Seed and decoding")
    page.get_by_text("The likeliest token always").click()
    idle(page)
    page.get_by_role("button", name="Average over many").click()
    expect(page.get_by_text("an average is over samples")).to_be_visible(timeout=SECONDS)
    idle(page)
    assert [each.inner_text() for each in page.locator(".said").all()] == shown


def test_a_run_that_goes_while_it_is_shown(page: Page, site: Site) -> None:
    gone = site.outputs / "gone"
    shutil.copytree(packaged("packaged:example_run"), gone)
    record = json.loads((gone / "run.json").read_text(encoding="utf-8"))
    (gone / "run.json").write_text(json.dumps({**record, "started": "2998", "status": "running"}), encoding="utf-8")
    with FileLock(gone / ".lock"):
        go(page, "Runs")
        page.get_by_text("One of them is running").wait_for(timeout=SECONDS)
        shutil.rmtree(gone)
        expect(page.get_by_text("the run gone has gone")).to_be_visible(timeout=SECONDS)
    page.get_by_role("textbox", name="Filter").fill("no_repeat")
    page.get_by_role("textbox", name="Filter").blur()
    page.get_by_text("2 runs").wait_for(timeout=SECONDS)
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=SECONDS)


def test_a_run_that_begins_is_in_the_table_and_what_was_chosen_stays(page: Page, site: Site) -> None:
    go(page, "Runs")
    page.get_by_text("2 runs").wait_for(timeout=SECONDS)
    looked = page.get_by_test_id("stMultiSelect").filter(has_text="Look at")
    expect(looked).to_contain_text("mine", timeout=SECONDS)
    begun = site.outputs / "begun"
    shutil.copytree(packaged("packaged:example_run"), begun)
    record = json.loads((begun / "run.json").read_text(encoding="utf-8"))
    (begun / "run.json").write_text(json.dumps({**record, "started": "2998"}), encoding="utf-8")
    try:
        page.get_by_text("3 runs").wait_for(timeout=SECONDS)
        idle(page)
        assert "mine" in looked.inner_text()
        assert "begun" not in looked.inner_text()
    finally:
        shutil.rmtree(begun)


def test_curves_follow_a_run_that_trains(page: Page, site: Site) -> None:
    run = site.outputs / "training"
    run.mkdir()
    record = {"status": "running", "model": "packaged:tiny", "started": "2999-01-01T00:00:00+00:00"}
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    lines = [json.dumps({"step": step, "objective/scores": step / 10}) + "\n" for step in range(1, 6)]
    (run / "metrics.jsonl").write_text("".join(lines[:3]), encoding="utf-8")

    def points() -> int:
        return page.evaluate("document.querySelector('.js-plotly-plot')?.data[0].x.length ?? 0")

    with FileLock(run / ".lock"):
        go(page, "Runs")
        expect(page.get_by_text("One of them is running")).to_be_visible(timeout=SECONDS)
        expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=SECONDS)
        assert points() == 3
        with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(lines[3:])
        page.wait_for_timeout(4000)  # the page looks every two seconds
        assert points() == 5
    shutil.rmtree(run)


def test_a_sweep_has_its_table(page: Page, site: Site) -> None:
    sweep = site.outputs / "swept"
    jobs = []
    for number, seed in enumerate((0, 1)):
        shutil.copytree(packaged("packaged:example_run"), sweep / f"{number:03d}_seed-{seed}")
        name = f"{number:03d}_seed-{seed}"
        jobs.append({"number": number, "overrides": [f"seed={seed}"], "folder": name, "config_sha256": str(seed)})
    plan = {"words": ["-m", "seed=0,1"], "jobs": jobs, "llmrl": "0.1.0", "started_in": str(site.outputs.parent)}
    (sweep / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
    go(page, "Runs")
    expect(page.get_by_text("2 finished")).to_be_visible(timeout=SECONDS)
    assert "(nothing varied)" in page.locator(".rows").last.inner_text()
    (sweep / "sweep.json").write_text("{", encoding="utf-8")
    page.get_by_role("textbox", name="Filter").fill("swept")
    page.get_by_role("textbox", name="Filter").blur()
    expect(page.get_by_text("the sweep can't be read")).to_be_visible(timeout=SECONDS)
    shutil.rmtree(sweep)


def test_a_run_that_is_called_base_is_not_the_base(page: Page, site: Site) -> None:
    shutil.copytree(packaged("packaged:example_run"), site.outputs / "base")
    page.reload()
    page.get_by_role("button", name="Answer").wait_for(timeout=SECONDS)
    page.get_by_role("button", name="Clear").first.click()
    choose(page, "Trained from it", "base")
    page.keyboard.press("Escape")
    write(page, "The old boat")
    page.get_by_role("button", name="Answer").click()
    first, second = answers(page, "The old boat")
    assert first != second
    shutil.rmtree(site.outputs / "base")


def test_more_prompts_than_requests_a_minute_are_one_request(page: Page) -> None:
    """What is counted are clicks, not the responses that one brings."""
    for _ in range(3):
        write(page, "\n".join(f"Chapter {number}" for number in range(16)))
        unfold(page, "Seed and decoding")
        slider = page.get_by_role("slider", name="Tokens at most")
        slider.focus()
        slider.press("Home")
        idle(page)
        page.get_by_role("button", name="Answer").click()
        expect(page.get_by_text("tokens,")).to_have_count(32, timeout=SECONDS)
        unfold(page, "Seed and decoding")
        idle(page)
        expect(page.get_by_role("alert")).to_have_count(0)


def test_an_address_has_one_pace_in_all_its_tabs(chromium: Browser, tmp_path: Path) -> None:
    """As others see it who reach this machine: a tab of its own begins no new minute."""
    own = next(
        (each.address for all in psutil.net_if_addrs().values() for each in all
         if each.family == socket.AF_INET and not each.address.startswith("127.")), None,
    )  # fmt: skip
    assert own, "this machine has no address but that of its loopback, under which every visitor is its own"
    with started(tmp_path, "host=0.0.0.0", "requests_per_minute=1") as site:
        for said in (" tokens, ", "1 requests a minute are the most here"):
            context = chromium.new_context()
            page = context.new_page()
            page.goto(site.url.replace("localhost", own))
            page.get_by_role("button", name="Answer").click()
            expect(page.get_by_text(said).first).to_be_visible(timeout=SECONDS)
            context.close()


def test_an_average_can_be_stopped(page: Page) -> None:
    write(page, "A dog")
    page.get_by_role("button", name="Average over many").click()
    page.get_by_role("button", name="Stop").click(timeout=SECONDS)
    idle(page)
    assert page.locator(".verdict").count() == 0
    write(page, "The end")
    page.get_by_role("button", name="Answer").click()
    assert len(answers(page, "The end")) == 2


def test_a_model_that_no_longer_loads_is_said(page: Page, site: Site) -> None:
    broken = site.outputs / "broken"
    shutil.copytree(packaged("packaged:example_run"), broken)
    (broken / "final" / "model.safetensors").write_bytes(b"no weights")
    try:
        page.reload()
        page.get_by_role("button", name="Answer").wait_for(timeout=SECONDS)
        clear = page.get_by_role("button", name="Clear").first
        clear.click()
        idle(page)
        page.get_by_role("combobox", name="Trained from it").click()
        page.get_by_role("option", name="broken").click()
        page.keyboard.press("Escape")
        idle(page)
        page.get_by_role("button", name="Answer").click()
        expect(page.get_by_role("alert").first).to_contain_text("could not be loaded", timeout=SECONDS)
        expect(page.get_by_role("button", name="Stop")).to_have_count(0, timeout=SECONDS)
        assert page.get_by_text("tokens,").count() == 1
    finally:
        shutil.rmtree(broken)


def test_rewards_follow_what_is_typed(page: Page) -> None:
    go(page, "Play with rewards")
    total = page.get_by_test_id("stMetricValue")
    before = total.inner_text()
    box = page.get_by_role("textbox", name="Response")
    box.press_sequentially(" into the rain.", delay=20)
    expect(total).not_to_have_text(before, timeout=SECONDS)
    box.fill("A dog. A dog.")
    cells = page.locator(".rows td")
    expect(cells.nth(1)).to_have_text(f"{NoRepeat()([said('A dog. A dog.')])[0]:+.3f}", timeout=SECONDS)
    weight = page.get_by_role("spinbutton", name="Weight of no_repeat")
    weight.fill("-2")
    weight.press("Enter")
    expect(cells.nth(3)).to_have_text(f"{-2 * NoRepeat()([said('A dog. A dog.')])[0]:+.3f}", timeout=SECONDS)
    box.fill("")
    box.press_sequentially(EVIL)
    expect(cells.nth(1)).to_have_text(f"{NoRepeat()([said(EVIL)])[0]:+.3f}", timeout=SECONDS)
    choose(page, "Rewards", "grounded")
    page.keyboard.press("Escape")
    page.get_by_text("Sources and reference answer").click()
    page.get_by_role("textbox", name="Sources").fill("[1] Tides\nThe moon pulls at the sea.")
    page.get_by_role("textbox", name="Sources").blur()
    box.fill("The moon pulls at the sea [1].")
    expect(cells.nth(9)).to_have_text("+1.000", timeout=SECONDS)


def said(text: str) -> Sample:
    """As the page has it: words for tokens."""
    return Sample("It was a grey morning.", text, token_ids=tuple(range(len(text.split()))), finished=True, max_new_tokens=32)


def test_the_keyboard_is_enough(page: Page) -> None:
    """From the prompt to the answers without a mouse; what has the focus shows it."""
    page.get_by_role("textbox", name="Prompt").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("The old mill")
    page.keyboard.press("Control+Enter")
    idle(page)
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "Answer":
            break
    assert page.evaluate("document.activeElement.innerText") == "Answer"
    seen = "(style => [style.outlineStyle, style.boxShadow])(getComputedStyle(document.activeElement))"
    assert page.evaluate(seen) != ["none", "none"]
    page.keyboard.press("Enter")
    answers(page, "The old mill")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(site: Site, chromium: Browser, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    for address, there in (("", "Answer"), ("ask", "Ask"), ("runs", "Look at"), ("rewards", "Total")):
        page.goto(f"{site.url}/{address}")
        page.get_by_text(there, exact=True).last.wait_for(timeout=SECONDS)
        idle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address
        parts = "[...document.querySelectorAll('button, textarea, input:not([type=range])')]"
        wide = f"{parts}.filter(e => e.getBoundingClientRect().right > 391).map(e => e.outerHTML.slice(0, 200))"
        assert page.evaluate(wide) == [], address
        colour = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
        assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 24, 23)"}[scheme]
    context.close()

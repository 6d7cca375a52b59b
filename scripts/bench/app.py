"""How soon the app is there, how soon it speaks, and what twenty visitors do to it. In headless Chromium, over loopback.

    python scripts/bench/app.py        # docs/results/app.{json,md} and the pictures docs/app/*.png; about three minutes

First page: from the command until its button can be pressed, medians of five; the browser, which is there already, asks for it
as soon as the server listens. First token: from the click until the first word of a response stands on the page, with the model
loaded. Visitors: twenty browser contexts with prompts and seeds of their own, five at a time, each asks three times, and then all
twenty at once; every answer is held against what the library says to that prompt and seed.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from llmrl.config import ModelConfig, read_train_config  # noqa: E402
from llmrl.models.load import load  # noqa: E402
from llmrl.prompts import Prompt  # noqa: E402
from llmrl.rollout.sampler import sample  # noqa: E402
from llmrl.tracking.run_folder import find_run, machine  # noqa: E402
from tests.browser import browser, complaints  # noqa: E402

RESULTS, PICTURES = ROOT / "docs" / "results", ROOT / "docs" / "app"
VISITORS, AT_ONCE, TIMES = 20, 5, 3
SECONDS = 60_000
FIRST_WORDS = [
    "The boat",
    "A fox",
    "My aunt",
    "The storm",
    "In the attic",
    "Two friends",
    "The baker",
    "At noon",
    "A letter",
    "The lamp",
]


@contextmanager
def app(work: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """(address, process, when it was started)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.perf_counter()
    log = (work / "log.txt").open("w")
    command = [sys.executable, "-m", "llmrl.app", f"port={port}"]
    process = subprocess.Popen(command, cwd=work, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        yield f"http://localhost:{port}", psutil.Process(process.pid), begun
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    said = (work / "log.txt").read_text(encoding="utf-8")
    if "Traceback" in said:
        raise RuntimeError(said)


def opened(page: Page, url: str) -> None:
    page.goto(url, wait_until="commit")
    page.get_by_role("button", name="Answer").wait_for(timeout=SECONDS)


def listening(url: str) -> None:
    """Returns as soon as the server answers there."""
    while True:
        with suppress(OSError), urllib.request.urlopen(f"{url}/_stcore/health", timeout=5):
            return
        time.sleep(0.01)


def first_page(chromium: Browser, work: Path, rounds: int = 5) -> dict[str, list[float]]:
    """Seconds from the command until the server listens, the heading is there, and the button."""
    found: dict[str, list[float]] = {"listens": [], "heading": [], "page": []}
    for _ in range(rounds):
        page = chromium.new_page()
        with app(work) as (url, _, begun):
            listening(url)
            found["listens"].append(time.perf_counter() - begun)
            page.goto(url, wait_until="commit")
            page.get_by_role("heading", name="Compare").wait_for(timeout=SECONDS)
            found["heading"].append(time.perf_counter() - begun)
            page.get_by_role("button", name="Answer").wait_for(timeout=SECONDS)
            found["page"].append(time.perf_counter() - begun)
            page.close()
    return found


def write(page: Page, prompt: str) -> None:
    box = page.get_by_role("textbox", name="Prompt")
    box.fill(prompt)
    box.blur()


def first_token(page: Page, rounds: int = 9) -> list[float]:
    """The first is dropped: a model may still be loading."""
    found = []
    for number in range(rounds + 1):
        prompt = f"Number {number} was"
        write(page, prompt)
        page.wait_for_timeout(400)
        begun = time.perf_counter()
        page.get_by_role("button", name="Answer").click(no_wait_after=True)
        page.wait_for_function(
            "prompt => { const box = document.querySelector('.said');"
            "return box && box.innerText.startsWith(prompt) && box.innerText.length > prompt.length + 1 }",
            arg=prompt, polling=20, timeout=SECONDS,
        )  # fmt: skip
        found.append(time.perf_counter() - begun)
        page.get_by_text("tokens,").nth(1).wait_for(timeout=SECONDS)
        page.wait_for_timeout(300)
    return found[1:]


def answers(page: Page) -> list[str]:
    page.get_by_text("tokens,").nth(1).wait_for(timeout=SECONDS)
    return [each.inner_text() for each in page.locator(".said").all()]


class Crowd:
    """Visitors side by side, each with a seed of his own, and what was wrong with what they were told."""

    def __init__(self, chromium: Browser, url: str) -> None:
        self.chromium, self.url = chromium, url
        self.models, self.rollout = expected_models()
        self.answers, self.wrong, self.errors, self.waits = 0, 0, [], []

    def visit(self, numbers: range, times: int) -> None:
        contexts = [self.chromium.new_context() for _ in numbers]
        pages = [context.new_page() for context in contexts]
        said = [complaints(page) for page in pages]
        for number, page in zip(numbers, pages, strict=True):
            opened(page, self.url)
            page.get_by_text("Seed and decoding").click()
            page.get_by_label("Seed", exact=True).fill(str(number))
            page.get_by_label("Seed", exact=True).press("Enter")
        for turn in range(times):
            self._ask(numbers, pages, turn)
        self.errors += [each for one in said for each in one]
        for context in contexts:
            context.close()

    def _ask(self, numbers: range, pages: list[Page], turn: int) -> None:
        prompts = [f"{FIRST_WORDS[number % 10]} {number} {turn}" for number in numbers]
        for page, prompt in zip(pages, prompts, strict=True):
            write(page, prompt)
            page.wait_for_timeout(200)
        begun = time.perf_counter()
        for page in pages:
            page.get_by_role("button", name="Answer").click(no_wait_after=True)
        for number, page, prompt in zip(numbers, pages, prompts, strict=True):
            page.wait_for_function(
                "prompt => [...document.querySelectorAll('.said')].every(box => box.innerText.startsWith(prompt))"
                " && (document.body.innerText.match(/ tokens, /g) || []).length == 2", arg=prompt, timeout=3 * SECONDS,
            )  # fmt: skip
            self.waits.append(time.perf_counter() - begun)
            for text, model in zip(answers(page), self.models, strict=True):
                made = sample(model, [Prompt(prompt, id="0")], self.rollout, torch.Generator().manual_seed(number)).texts[0]
                self.answers += 1
                self.wrong += " ".join(text.split()) != " ".join((prompt + made).split())


def visitors(chromium: Browser, url: str, server: psutil.Process) -> dict[str, Any]:
    """Twenty, five at a time; then all at once."""
    crowd, sizes = Crowd(chromium, url), []
    for start in range(0, VISITORS, AT_ONCE):
        crowd.visit(range(start, start + AT_ONCE), TIMES)
        sizes.append(server.memory_info().rss)
    found = {
        "visitors": VISITORS, "at_once": AT_ONCE, "requests": VISITORS * TIMES, "slowest_s": max(crowd.waits),
        "median_s": median(crowd.waits), "rss_after_ten": sizes[len(sizes) // 2 - 1], "rss_after_twenty": sizes[-1],
    }  # fmt: skip
    crowd.waits.clear()
    crowd.visit(range(VISITORS), 1)
    return found | {
        "answers": crowd.answers, "wrong": crowd.wrong, "errors": crowd.errors, "crowd_median_s": median(crowd.waits),
        "crowd_slowest_s": max(crowd.waits), "rss_after_crowd": server.memory_info().rss,
    }  # fmt: skip


def expected_models() -> tuple[list[Any], Any]:
    run = find_run("packaged:example_run")
    rollout = read_train_config(run.path / "config.yaml").rollout
    return [load(ModelConfig(name_or_path=name)) for name in ("packaged:tiny", str(run.path))], rollout


def pictures(chromium: Browser, url: str) -> None:
    """Of every page, for the documentation: light, one in the dark, one on a phone."""
    PICTURES.mkdir(exist_ok=True)
    page = chromium.new_page(viewport={"width": 1200, "height": 900})
    opened(page, url)
    write(page, "The old boat")
    page.get_by_role("button", name="Answer").click()
    answers(page)
    page.wait_for_timeout(800)
    page.screenshot(path=PICTURES / "compare.png")
    page.get_by_role("button", name="Average over many").click()
    page.locator(".verdict").wait_for(timeout=SECONDS)
    page.mouse.move(5, 5)
    page.wait_for_timeout(800)
    page.screenshot(path=PICTURES / "average.png")
    page.get_by_role("link", name="Ask").click()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Source 1").wait_for(timeout=SECONDS)
    page.wait_for_timeout(800)
    page.screenshot(path=PICTURES / "ask.png")
    page.get_by_role("link", name="Runs").click()
    page.locator(".js-plotly-plot").nth(1).wait_for(timeout=SECONDS)
    page.wait_for_timeout(1500)
    page.screenshot(path=PICTURES / "runs.png")
    page.close()
    dark = chromium.new_context(viewport={"width": 1200, "height": 760}, color_scheme="dark").new_page()
    opened(dark, url)
    dark.get_by_role("link", name="Play with rewards").click()
    dark.get_by_role("textbox", name="Response").wait_for(timeout=SECONDS)
    dark.wait_for_timeout(1500)
    dark.screenshot(path=PICTURES / "rewards_dark.png")
    phone = chromium.new_context(viewport={"width": 390, "height": 844}).new_page()
    opened(phone, url)
    phone.wait_for_timeout(800)
    phone.screenshot(path=PICTURES / "phone.png")


def render(found: dict[str, Any]) -> str:
    seen, pages, tokens = found["visitors"], found["first_page_s"], found["first_token_s"]
    grown = seen["rss_after_twenty"] / seen["rss_after_ten"] - 1
    return "\n".join([
        "# The app", "",
        f"`python scripts/bench/app.py`: headless Chromium over loopback, tiny model, on {found['machine']['processors']} processors "
        "that the browser and the checking use, too.", "",
        "| what | bar | measured |", "| --- | --- | --- |",
        f"| from the command to the first page, its button ready | 3 s | {median(pages['page']):.2f} s, median of "
        f"{len(pages['page'])} ({min(pages['page']):.2f} to {max(pages['page']):.2f}); its heading {median(pages['heading']):.2f} s, "
        f"the server listens after {median(pages['listens']):.2f} s |",
        f"| from the click to the first token, model loaded | 1 s | {median(tokens):.2f} s, median of {len(tokens)} "
        f"({min(tokens):.2f} to {max(tokens):.2f}) |",
        f"| {seen['visitors']} visitors, {seen['at_once']} at a time, {seen['requests']} requests for two responses each; then all "
        f"{seen['visitors']} at once, one request each | no mixed answer, no error | {seen['wrong']} of {seen['answers']} "
        f"answers other than the library's own to that prompt and seed, {len(seen['errors'])} errors |",
        f"| how long they waited for both responses, all browsers on the same processors | | {seen['median_s']:.1f} s, at most {seen['slowest_s']:.1f} s; all at once "
        f"{seen['crowd_median_s']:.1f} s, at most {seen['crowd_slowest_s']:.1f} s |",
        f"| memory of the server after ten visitors, after twenty | no growth | {seen['rss_after_ten'] / 1e6:.0f} MB, "
        f"{seen['rss_after_twenty'] / 1e6:.0f} MB ({grown:+.1%}); after all at once {seen['rss_after_crowd'] / 1e6:.0f} MB |", "",
    ])  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        work = Path(folder)
        found: dict[str, Any] = {"machine": machine(), "first_page_s": first_page(chromium, work)}
        print("first page", found["first_page_s"], flush=True)
        with app(work) as (url, server, _):
            listening(url)
            page = chromium.new_page()
            opened(page, url)
            time.sleep(8)  # until the models are loaded
            found["first_token_s"] = first_token(page)
            page.close()
            print("first token", found["first_token_s"], flush=True)
            found["visitors"] = visitors(chromium, url, server)
            print(found["visitors"], flush=True)
            shutil.rmtree(work / "outputs", ignore_errors=True)
            pictures(chromium, url)
    (RESULTS / "app.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "app.md").write_text(render(found), encoding="utf-8")


if __name__ == "__main__":
    main()

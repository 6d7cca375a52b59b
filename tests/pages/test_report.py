"""report.html of a run, in a real browser; and what can't be reported."""

from pathlib import Path

import pytest

from tests.browser import browser, complaints
from tests.conftest import SMALL_RUN, Command, refused


@pytest.mark.slow
def test_a_runs_page(command: Command, tmp_path: Path) -> None:
    prompts = [f"Number {i} <b onclick=alert(1)>is</b>" for i in range(40)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    done = command(
        "train", *SMALL_RUN, "reward=[no_repeat,end_of_sentence]", "trainer.eval_every=1", "trainer.eval_prompts=8",
        "prompts=text", "prompts.path=prompts.txt", "prompts.held_out_share=0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = command("report", "run=run")
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == "run/report.html"
    with browser() as chromium:
        page = chromium.new_page()
        found = complaints(page)
        page.route("http*://**", lambda route: pytest.fail(f"the page asks for {route.request.url}"))
        page.goto((tmp_path / "run" / "report.html").as_uri())
        page.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 24")
        names = page.evaluate("[...document.querySelectorAll('.plot')].map(plot => plot.id)")
        assert names == ["reward", "kl", "length", "entropy", "update", "loss", "components", "time"]
        drawn = page.evaluate("document.getElementById('reward').data.map(trace => [trace.name ?? 'band', trace.x.length])")
        assert drawn == [
            ["objective/scores", 2],
            ["band", 6],
            ["eval/reward", 3],
        ]  # held-out looks from step 0, with their band
        assert "Verdict: " in page.locator("h2").first.inner_text()
        pairs = page.locator(".pairs tbody tr")
        assert pairs.count() == 12
        assert "<b onclick=alert(1)>is</b>" in pairs.first.inner_text()
        assert page.locator(".pairs b").count() == 0
        assert found == []


def test_what_can_not_be_reported(command: Command, tmp_path: Path) -> None:
    assert "name one run or sweep folder" in refused(command("report"))
    assert "is no run folder" in refused(command("report", "run=nothing"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.json").write_text("{}", encoding="utf-8")
    assert "has logged nothing yet" in refused(command("report", "run=empty"))

"""sweep.html as a person sees it: in a real browser, from the disk, light and dark."""

import json
from pathlib import Path

import pytest

from tests.browser import browser, complaints
from tests.conftest import Command

HOSTILE = "<script>document.title = 'owned'</script>"


@pytest.fixture
def page_file(command: Command, tmp_path: Path) -> Path:
    """A sweep of eight jobs in four settings; prompts hold a script."""
    prompts = [f"Number {i} {HOSTILE} is" for i in range(40)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    done = command(
        "train", "-m", "experiment=debug", "hydra.sweep.dir=sweep", "evaluation.examples=0", "ppo.lr=1e-5,1e-3",
        "ppo.epochs=1,2", "seed=1,2", "trainer.eval_every=1", "trainer.checkpoint_every=0", "prompts=text",
        "prompts.path=prompts.txt",
        "prompts.held_out_share=0.5", "trainer.eval_prompts=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "sweep" / "sweep.html"


@pytest.mark.slow
def test_every_plot_is_there_and_nothing_complains(page_file: Path) -> None:
    ranking = json.loads((page_file.parent / "ranking.json").read_text(encoding="utf-8"))["rankings"][0]
    with browser() as chromium:
        colours = []
        for scheme in ("light", "dark"):
            page = chromium.new_page(color_scheme=scheme)  # type: ignore[arg-type]
            found = complaints(page)
            page.route("http*://**", lambda route: pytest.fail(f"the page asks for {route.request.url}"))
            page.goto(page_file.as_uri())
            page.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 15")
            drawn = page.evaluate("[...document.querySelectorAll('.plot')].map(plot => plot.data.map(trace => trace.type))")
            assert [kinds[0] for kinds in drawn] == ["scatter", "scatter", "scatter", "parcoords", "bar"]
            bands = page.evaluate("document.querySelectorAll('.plot')[1].data.filter(trace => trace.fill == 'toself').length")
            assert bands == 4  # a band over seeds for each of the four settings
            points = page.evaluate("document.querySelectorAll('.plot')[0].data.flatMap(trace => trace.y)")
            assert len(points) == 8
            rows = page.locator("table").first.locator("tbody tr")
            assert rows.count() == 4
            assert f"{ranking['groups'][0]['reward']['mean']:.3f}" in rows.first.inner_text()
            assert page.locator(".samples li").count() == 12
            assert HOSTILE in page.locator(".samples li").first.inner_text()  # as text
            assert page.title() == "sweep"
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            page.set_viewport_size({"width": 390, "height": 800})
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= max(wide, 0)  # a telephone, too
            assert found == []
            page.close()
        assert colours[0] != colours[1]

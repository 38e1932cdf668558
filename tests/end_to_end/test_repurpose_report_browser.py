"""The page of a restructured model in a real browser: what a reader sees of weights, front and load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from channel.randomness import torch_generator
from clients.data import Split
from fedmac.report.repurpose_page import repurpose_page
from fedmac.repurposing.study import Study, Wish, study
from fedmac.repurposing.trained_model import TrainedModel
from strategies.repurpose import Links, Worker
from strategies.repurpose.method import USUAL
from tests.end_to_end.chromium import CHOOSE_EVERY_VIEW, DARK, IN_CHROMIUM, framed, opened, plots, titled, with_script
from tests.strategies.repurpose.networks import dense, inputs

pytestmark = IN_CHROMIUM

SIZES, WORKERS, POINTS = (12, 24, 16, 6), 4, 5


@pytest.fixture(scope="module")
def found() -> Study:
    model, x = dense(SIZES), inputs(dense(SIZES), rows=300)
    rows = Split(x, model(x).argmax(1))
    trained = TrainedModel(model, "a model", rows, rows, rows)
    team, links = [Worker()] * WORKERS, Links.equal(WORKERS)
    return study(trained, team, links, Wish(max_sends=30), points=POINTS, note=lambda _: None, method=USUAL)


@pytest.fixture(scope="module")
def page(found: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "report.html"
    path.write_text(repurpose_page(found), encoding="utf-8")
    return path


def test_every_view_is_drawn_with_all_its_points(found: Study, page: Path, tmp_path: Path) -> None:
    dom, console = opened(with_script(page, CHOOSE_EVERY_VIEW, tmp_path), tmp_path / "profile")
    assert console == []
    shown = plots(dom)
    assert list(shown) == ["front", "blocks-1", "blocks-2", "load"]
    said = titled(dom)
    assert [axis for axis, _ in said["front"]] == ["activations sent for one input", "latency, estimate (ms)"]
    plans = len(found.points)
    for _, points in said["front"]:
        drawn, unbeaten, picked, model = map(int, points.split())
        assert drawn == plans
        assert 1 < unbeaten <= plans
        assert (picked, model) == (1, 2)
    # a picture has a cell for each weight: rows of the layer times units of its input
    assert {points for _, points in said["blocks-1"]} == {str(16 * 24)}
    assert {points for _, points in said["blocks-2"]} == {str(6 * 16)}
    assert shown["load"][1] == [WORKERS] * 3, "a bar for each worker and layer"


def test_lines_part_the_workers_after_but_not_before(found: Study, page: Path, tmp_path: Path) -> None:
    script = """(async () => {
      const figure = document.querySelector("#blocks-1"), said = {};
      for (const input of figure.querySelectorAll(".choice input")) {
        input.click();
        while (figure.dataset.view !== input.value) { await new Promise((done) => setTimeout(done, 20)); }
        const lines = [...figure.querySelectorAll(".shapelayer path")].map((path) => path.getBoundingClientRect());
        said[input.parentNode.textContent] = [
          lines.filter((box) => box.width > box.height).length, lines.filter((box) => box.height > box.width).length];
      }
      document.title = JSON.stringify(said);
    })();"""
    dom, console = opened(with_script(page, script, tmp_path), tmp_path / "profile")
    assert console == []
    assert titled(dom) == {"after": [WORKERS - 1, WORKERS - 1], "before": [0, 0]}


@pytest.mark.parametrize("flags", [(), (DARK,)], ids=["light", "dark"])
def test_words_stand_out_from_the_page_light_or_dark(page: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """The Web Content Accessibility Guidelines ask for a contrast of 4.5 between text and what is behind it."""
    script = """setTimeout(() => {
      const luminance = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map((n) => n / 255)
          .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = luminance(getComputedStyle(document.body).backgroundColor), least = {};
      for (const [words, property] of [
        ["h1, h2, h3, td, th, p, figcaption", "color"], [".xtick text, .ytick text, .legendtext, .xtitle", "fill"]]) {
        const ratios = [...document.querySelectorAll(words)].map((part) => {
          const ink = luminance(getComputedStyle(part)[property]);
          return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        });
        least[property] = [ratios.length, Math.min(...ratios)];
      }
      document.title = JSON.stringify(least);
    }, 2000);"""
    dom, console = opened(with_script(page, script, tmp_path), tmp_path / "profile", *flags)
    assert console == []
    for count, contrast in titled(dom).values():
        assert count > 20
        assert contrast >= 4.5


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_sticks_out_of_the_page(page: Path, tmp_path: Path, width: int) -> None:
    measure = """
    onload = () => setTimeout(() => {
      const page = document.querySelector("iframe").contentDocument, root = page.documentElement, out = [];
      for (const part of page.querySelectorAll("section, figure, .canvas, .main-svg, .choice, .scroll")) {
        const box = part.getBoundingClientRect();
        if (box.left < 0 || box.right > root.clientWidth + 0.5) { out.push(`${part.tagName} ${part.id}`); }
      }
      document.title = JSON.stringify([root.clientWidth, root.scrollWidth, out]);
    }, 2000);"""
    dom, console = opened(framed([page], width, measure, tmp_path), tmp_path / "profile", "--window-size=1700,1000")
    assert console == []
    client, scroll, out = titled(dom)
    assert out == []
    assert scroll <= client


def test_a_picture_shows_blocks_that_are_empty_after(tmp_path: Path) -> None:
    """Of a model of two blocks whose neurons are shuffled, all that is off the diagonal is dark after."""
    order = torch.randperm(16, generator=torch_generator(0, "order"))
    first, second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(16)[order])
        blocks = [torch.randn(8, 8, generator=torch_generator(0, "block", n)).sign() for n in range(2)]
        second.weight.copy_(torch.block_diag(*blocks)[:, order])
    model, x = nn.Sequential(first, nn.ReLU(), second), torch.randn(200, 16, generator=torch_generator(0, "x"))
    rows = Split(x, model(x).argmax(1).detach())
    links = Links.equal(2)
    found = study(
        TrainedModel(model, "blocks", rows, rows, rows), [Worker()] * 2, links, Wish(cost=0.01), points=2,
        note=lambda _: None, method=USUAL,
    )  # fmt: skip
    page = tmp_path / "report.html"
    page.write_text(repurpose_page(found), encoding="utf-8")
    script = """setTimeout(() => {
      const z = document.querySelector("#blocks-1 .canvas").data[0].z, n = z.length / 2;
      const cells = (rows, columns) => rows.flatMap((row) => row.slice(...columns));
      const bright = (rows, columns) => cells(rows, columns).filter((cell) => cell > 128).length;
      const halves = [[0, n], [n, 2 * n]];
      document.title = JSON.stringify(halves.map((r) => halves.map((c) => bright(z.slice(...r), c))));
    }, 1500);"""
    dom, console = opened(with_script(page, script, tmp_path), tmp_path / "profile")
    assert console == []
    assert titled(dom) == [[64, 0], [0, 64]]

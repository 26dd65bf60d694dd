"""Every report in a real browser: in light and dark, in windows of every width, without a barrier or a request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.demo import phantoms
from fedhelp_edge.infer import mask_files
from fedhelp_edge.lab import page as lab_page
from fedhelp_edge.report import outlines, pages, rounds
from fedhelp_edge.report.error_gallery import WrongAnswer, WrongOutline
from fedhelp_edge.report.mask_evaluation import MaskEvaluation, MaskScores
from fedhelp_edge.report.metrics import ROC_LIMITS
from server_ref.kit import leaflet
from tests.browser.chromium import PROGRAM, Browser, browser
from tests.browser.test_dashboard import PICTURES
from tests.unit.lab import test_page as lab_sample
from tests.unit.report import test_evaluation as evaluation_sample
from tests.unit.report import test_rounds as rounds_sample

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")
WIDTHS = (390, 1280, 2560)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        tab.scripts(True)  # of the devtools; the pages bring none
        yield tab


def report(kind: str, folder: Path) -> str:
    if kind == "evaluation":
        roc = {
            name: [limit ** (0.2 * rank) for limit in ROC_LIMITS] for rank, name in enumerate(("MEL", "NV", "BCC"), 1)
        }
        pictures = phantoms.draw(5, 2, size=48)[0]
        wrong = [
            WrongAnswer(
                f"ward/smear{number}.png", "NV", "MEL", 0.9 - number / 10, pixels, pixels[::-1] if number else None
            )
            for number, pixels in enumerate(pictures)
        ]
        sample = evaluation_sample.measured(nets=("own", "alone", "without_prior"))
        return replace(sample, roc=roc, wrong=wrong).html()
    if kind == "masks":
        images, masks = phantoms.draw_outlined(5, size=48)
        moved = [np.roll(mask, number, 0) for number, mask in enumerate(masks)]
        scores = MaskScores.of(outlines.tally(moved, masks, 3), np.arange(5), phantoms.PARTS)
        overlays = [mask_files.draw_over(image, mask, mask > 8) for image, mask in zip(images, masks, strict=True)]
        worst = [WrongOutline(f"ward/smear{number}.png", 0.5, each, each) for number, each in enumerate(overlays)]
        colours = {name: mask_files.colour_of(label) for label, name in enumerate(phantoms.PARTS, 1)}
        figures: dict[str, dict[str, float | None]] = {"own": {"dice": 0.5}}
        about = "cells", 3, "small", phantoms.PARTS, {"own": scores}
        return MaskEvaluation(*about, figures=figures, wrong=worst, colours=colours).html()
    if kind == "rounds":
        return rounds.page("lesions", [rounds_sample.report_entry(number, 0.4 + 0.05 * number) for number in (1, 2, 3)])
    if kind == "lab":
        return lab_page.html(lab_sample.some(folder))
    if kind == "leaflet":
        return leaflet.page(leaflet.LeafletFacts("linux", "3.11", False, 10**8, "ab" * 32, "clinic.fhx", True))
    noise = np.random.default_rng(1).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    return pages.page(
        "Pieces",
        pages.tiles([(kind, "2 of 3", kind) for kind in ("", "good", "warn", "bad")]),
        *(pages.note(f"A note: {kind}.", kind) for kind in ("good", "warn", "bad", "wait")),
        pages.table(("", "state"), [(kind, pages.Chip(kind, kind)) for kind in ("good", "warn", "bad", "wait")]),
        pages.chart({str(number): [(0, number), (1, 9 - number)] for number in range(8)}, "round", "accuracy"),
        pages.preformatted("[plan]\nname = " + "x" * 300),
        pages.picture(noise, "noise", 64, 64),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["evaluation", "masks", "rounds", "lab", "leaflet", "pieces"])
def test_a_report_is_for_everybody_on_every_screen_and_asks_nobody(kind: str, tab: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(report(kind, tmp_path), encoding="utf-8")
    tab.loaded.clear()
    tab.complaints.clear()
    tab.open((tmp_path / "page.html").as_uri())
    for scheme in ("light", "dark"):
        tab.colours(scheme)
        for width in WIDTHS:
            assert tab.page_width(width) <= width
            overflowing = "[...document.querySelectorAll('td, th')].filter(cell => cell.scrollWidth > cell.clientWidth)"
            assert tab.ask(f"{overflowing}.map(cell => cell.textContent)") == []
            if "FEDHELP_PICTURES" in os.environ:
                tab.screenshot(PICTURES / f"{kind}-{scheme}-{width}.png")
        assert tab.barriers() == []
    assert {url.partition(":")[0] for url in tab.loaded} <= {"file", "data"}
    assert tab.complaints == []

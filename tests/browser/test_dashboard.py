"""The dashboard in a real browser without script: the link, the cookie, the policy, the buttons."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fedhelp_edge import hints
from server_ref.hub.tables import decisions_table
from server_ref.intake import receive
from server_ref.rounds import close, lifecycle, review
from server_ref.web import dashboard
from server_ref.web.dashboard import DashboardAccess
from tests.browser.chromium import PROGRAM, browser
from tests.federation import Federation
from tests.http_front import running

pytestmark = pytest.mark.skipif(not PROGRAM, reason="not installed: chromium")
PICTURES = Path(os.environ.get("FEDHELP_PICTURES", Path(__file__).parents[2] / "build" / "pictures"))


@pytest.fixture
def fed(three: Federation) -> Federation:
    """Three rounds; in the last one an update waits for review, and a site is missing."""
    fed = three
    for _ in range(2):
        task = fed.open()
        for index, clinic in enumerate(fed.clinics):
            facts = {"examples": 100, "val": 50, "correct": 30 + 4 * task.round + index}
            receive.receive(fed.hub, clinic.give(task, fed.drawn_update(task, clinic), facts=facts))
        fed.aggregate()
    task = fed.open()
    facts = {"examples": 100, "val": 50, "correct": 41}
    receive.receive(fed.hub, fed.clinics[0].give(task, fed.drawn_update(task, fed.clinics[0]), facts=facts))
    receive.receive(fed.hub, fed.clinics[1].give(task, fed.base(task)))
    fed.judge()
    close._quarantine_outliers(fed.hub, fed.coordinator_keys, lifecycle.open_round(fed.hub))
    return fed


def test_a_coordinator_opens_the_link_and_releases_an_update_of_the_round(
    fed: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "_REFRESH_SECONDS", 86400)  # else a page could come anew between two clicks
    monkeypatch.setattr(hints.CurrentCommand, "commands", None)  # of an earlier test, whose options a hint would repeat
    access = DashboardAccess()
    with running(fed.hub.home, access=access) as port, browser(tmp_path / "profile") as tab:
        origin = f"http://127.0.0.1:{port}"
        tab.open(origin)
        assert "this page is for the coordinator" in tab.html()
        tab.complaints.clear()
        tab.open(f"{origin}/enter/{access.token}")
        html = tab.html()
        assert "<h1>test: round 3 of 12, open</h1>" in html
        assert "accuracy, model of round 2</span><strong>0.820</strong>" in html
        tab.screenshot(PICTURES / "dashboard.png")
        tab.scripts(True)  # of the devtools; the page brings none
        for scheme in ("light", "dark"):
            tab.colours(scheme)
            for width in (390, 1280, 2560):
                assert tab.page_width(width) <= width
                tab.screenshot(PICTURES / f"dashboard-{scheme}-{width}.png")
            assert tab.barriers() == []
        tab.click("button[value=release]")
        assert "Decided: release." in tab.html()
        tab.screenshot(PICTURES / "dashboard-decided.png")
        tab.scripts(False)
        tab.click("button[value=close]")
        assert "Decided: close round 3." in tab.html()
        tab.click("button[value=withdraw]")
        assert "Decided: close round 3." not in tab.html()
        tab.click('a[href="invite"]')
        tab.fill("input[name=name]", "Clinic A")
        tab.click("button.first")
        assert 'invite "Clinic A" --tier small --days 14 --out site.invite</code>' in tab.html().replace("&quot;", '"')
        tab.scripts(True)
        for scheme in ("light", "dark"):
            tab.colours(scheme)
            for width in (390, 1280, 2560):
                assert tab.page_width(width) <= width
                tab.screenshot(PICTURES / f"invite-{scheme}-{width}.png")
            assert tab.barriers() == []
        loaded, complaints = tab.loaded, tab.complaints
    (waiting,) = review.quarantined_updates(fed.hub)
    assert decisions_table.every(fed.hub.database) == {waiting["hash"]: "release"}
    paths = {urlsplit(url).path.split("/enter/")[0] for url in loaded if url.startswith(origin)}
    assert paths <= {"", "/", "/decisions", "/invite", "/favicon.ico"}
    assert all(url.startswith(origin) for url in loaded)
    assert complaints == []


@pytest.mark.usefixtures("open_in_process")
def test_a_long_name_does_not_overflow_and_a_refused_update_shows_its_code(three: Federation, tmp_path: Path) -> None:
    for name in ("Centre hospitalier universitaire de la Sainte-Trinité, service de dermatologie", "x" * 90):
        three.join(name=name)
    task, last = three.open(), three.clinics[-1]
    receive.receive(three.hub, last.give(task, three.drawn_update(task, last), facts={"pad": "no count of images"}))
    three.judge()
    access = DashboardAccess()
    with running(three.hub.home, access=access) as port, browser(tmp_path / "profile") as tab:
        tab.open(f"http://127.0.0.1:{port}/enter/{access.token}")
        assert "refused E_SAMPLES</span></td>" in tab.html()
        for width, column in ((1280, "th:last-child"), (390, "th:nth-child(3)")):
            tab.page_width(width)
            tab.screenshot(PICTURES / f"dashboard-{width}.png")
            assert tab.right_edge(column) < width


def test_a_hub_without_a_site_shows_the_next_step(federation_of: Callable[[int], Federation], tmp_path: Path) -> None:
    access = DashboardAccess()
    with (
        federation_of(0).temporary_copy(tmp_path / "hub") as fed,
        running(fed.hub.home, access=access) as port,
        browser(tmp_path / "profile") as tab,
    ):
        tab.open(f"http://127.0.0.1:{port}/enter/{access.token}")
        assert "<h1>test: no round was opened yet</h1>" in tab.html()
        assert "fedhelp-coordinator invite NAME --tier small" in tab.html().replace("&#x27;", "'")

"""The dashboard: for whoever started the front, and without script. What its buttons decide, a command carries out."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from fedhelp_edge.errors import NotNowError
from server_ref.admin import decisions, unattended
from server_ref.intake import receive
from server_ref.rounds import close, lifecycle, review
from server_ref.web.dashboard import DashboardAccess
from tests.federation import Federation
from tests.net import Answer, Client, running

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def with_an_odd_share(made: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A merged round, and a second one in which a site gave back what it was given."""
    with made.lent(tmp_path_factory.mktemp("odd") / "federation") as fed:
        fed.play(fed.open())
        fed.aggregate()
        order = fed.open()
        fed.play(order, without=("site-002", "site-003"))
        receive.receive(fed.hub, fed.clinics[1].give(order, fed.base(order)))
        fed.judge()
        odd = fed.hub.database.row("SELECT hash FROM shares WHERE site = 'site-002' AND round = 2")
        assert odd
        with pytest.raises(NotNowError):
            decisions.record(fed.hub, odd["hash"], "release")
        close._quarantine_outliers(fed.hub, fed.coordinator_keys, lifecycle.open_round(fed.hub))
        assert fed.states()["site-002/2"] == "quarantined"
        yield fed


@pytest.fixture
def fed(with_an_odd_share: Federation, tmp_path: Path) -> Iterator[Federation]:
    with with_an_odd_share.lent(tmp_path / "federation") as fed:
        yield fed


@pytest.fixture
def door() -> DashboardAccess:
    return DashboardAccess()


@pytest.fixture
def client(fed: Federation, door: DashboardAccess) -> Iterator[Client]:
    with running(fed.hub.home, door=door) as port:
        yield Client(port, fed.hub.federation)


@pytest.fixture
def cookie(client: Client, door: DashboardAccess) -> dict[str, str]:
    """What a browser holds after the link was opened."""
    answer = client.ask("GET", f"/enter/{door.token}")
    assert (answer.status, answer.headers["location"]) == (303, "..")
    given = answer.headers["set-cookie"]
    assert {"httponly", "path=/", "samesite=strict"} <= {part.strip().lower() for part in given.split(";")}
    return {"Cookie": given.split(";")[0]}


def text(answer: Answer) -> str:
    """What a person reads."""
    return html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", answer.body.decode(), flags=re.DOTALL))


def decide(client: Client, cookie: dict[str, str], what: str, update: str = "", form: str = "") -> Answer:
    shown = client.ask("GET", "/", headers=cookie).body.decode()
    hidden = dict(re.findall(r'name="(form|update)" value="(\w+)"', shown))
    fields = {"update": update or hidden["update"], "what": what, "form": form or hidden["form"]}
    return client.ask("POST", "/decisions", urlencode(fields).encode(), {**cookie, **FORM})


def test_it_shows_sites_the_round_the_quarantine_models_and_the_log(client: Client, cookie: dict[str, str]) -> None:
    seen = text(client.ask("GET", "/", headers=cookie))
    assert "test: round 2 of 12, open" in seen
    assert "1 of 3 shares accepted" in seen
    assert re.search(r"site-001\s+Clinic 0\s+small\s+active\s+accepted\s+20\d\d-[\d: -]+UTC\s+100\s", seen)
    assert re.search(r"site-003\s+Clinic 2\s+small\s+active\s+missing", seen)
    assert "site-002, round 2:" in seen
    assert "E_LAZY" in seen
    assert "It claims 100 training images." in seen
    assert re.search(r"round\s+shares\s+model\s+accuracy at the sites\s+1\s+3\s+[0-9a-f]{16}", seen)
    assert "quarantined" in seen


def test_who_is_missing_after_the_deadline_is_late(client: Client, cookie: dict[str, str], fed: Federation) -> None:
    fed.clock.go_on(days=8)
    with fed.hub.database.transaction():
        fed.hub.log("test", "time")
    assert re.search(r"site-003\s+Clinic 2\s+small\s+active\s+late", text(client.ask("GET", "/", headers=cookie)))


def test_nobody_sees_it_without_the_link_and_the_link_works_once(
    client: Client, door: DashboardAccess, cookie: dict[str, str]
) -> None:
    for headers in ({}, {"Cookie": "fedhelp_dashboard=x"}):
        answer = client.ask("GET", "/", headers=headers)
        assert (answer.status, answer.code) == (403, "E_DASHBOARD")
        assert client.ask("POST", "/decisions", b"", {**headers, **FORM}).code == "E_DASHBOARD"
    assert client.ask("GET", f"/enter/{door.token}").code == "E_DASHBOARD"
    assert client.ask("GET", "/", headers=cookie).status == 200


def test_a_person_without_the_link_is_told_how_to_get_one(client: Client) -> None:
    answer = client.ask("GET", "/", headers={"Accept": "text/html"})
    assert answer.status == 403
    assert "fedhelp-coordinator serve" in text(answer)


def test_a_wrong_link_or_a_look_at_it_does_not_use_it_up(client: Client, door: DashboardAccess) -> None:
    assert client.ask("GET", "/enter/x").status == 403
    assert client.ask("HEAD", f"/enter/{door.token}").status == 405
    assert client.ask("GET", f"/enter/{door.token}").status == 303


def test_the_page_may_load_and_run_nothing(client: Client, cookie: dict[str, str]) -> None:
    answer = client.ask("GET", "/", headers=cookie)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(rb"<script|<link|src=|http-equiv=.refresh|https?://|\son\w+=", answer.body)


@pytest.mark.parametrize(("what", "state"), [("release", "accepted"), ("refuse", "refused")])
def test_what_a_button_decides_the_next_command_carries_out(
    client: Client, cookie: dict[str, str], fed: Federation, what: str, state: str
) -> None:
    assert decide(client, cookie, what).status == 303
    assert fed.states()["site-002/2"] == "quarantined"
    assert f"Decided: {what}" in text(client.ask("GET", "/", headers=cookie))
    decisions.apply(fed.hub, fed.coordinator_keys)
    assert fed.states()["site-002/2"] == state
    assert decisions.pending(fed.hub) == {}


def test_an_unattended_coordinator_carries_out_decisions_and_says_with_each_refusal_what_to_do(
    client: Client, cookie: dict[str, str], fed: Federation
) -> None:
    assert decide(client, cookie, "refuse").status == 303
    _, (line, hint) = unattended.step(fed.hub, fed.coordinator_keys, None)
    assert line.startswith("site-002: refused E_")
    assert hint.startswith("    hint: ")
    assert fed.states()["site-002/2"] == "refused"


def test_a_decision_that_comes_too_late_is_logged_and_forgotten(
    client: Client, cookie: dict[str, str], fed: Federation
) -> None:
    assert decide(client, cookie, "release").status == 303
    review.decide(fed.hub, fed.coordinator_keys, "site-002", release=False)
    assert decisions.apply(fed.hub, fed.coordinator_keys) == []
    assert fed.states()["site-002/2"] == "refused"
    assert decisions.pending(fed.hub) == {}
    assert fed.hub.database.rows("SELECT 1 FROM log WHERE type = 'decision void'")


def test_letting_in_waits_for_a_round_that_is_open(client: Client, cookie: dict[str, str], fed: Federation) -> None:
    assert decide(client, cookie, "release").status == 303
    order = fed.hub.tasks()[2]
    receive.receive(fed.hub, fed.clinics[2].give(order, fed.drawn(order, fed.clinics[2])))
    fed.aggregate(now=True)
    assert decisions.apply(fed.hub, fed.coordinator_keys) == []
    fed.open()
    (done,) = decisions.apply(fed.hub, fed.coordinator_keys)
    assert done["state"] == "accepted"


@pytest.mark.parametrize(
    ("what", "update", "form"),
    [("release", "", "0" * 64), ("release", "site-002", ""), ("drop", "", ""), ("refuse", "'; --", "")],
)
def test_a_form_that_is_not_ours_or_makes_no_sense_decides_nothing(
    client: Client, cookie: dict[str, str], fed: Federation, what: str, update: str, form: str
) -> None:
    answer = decide(client, cookie, what, update, form)
    assert (answer.status, answer.code) in ((400, "E_REQUEST"), (409, "E_STATE"))
    assert decisions.pending(fed.hub) == {}


def test_names_that_hold_html_are_shown_as_they_are(tmp_path: Path, door: DashboardAccess) -> None:
    fed = Federation(tmp_path / "other", clinics=0)
    code, _ = fed.hub.invite("<script>alert(1)</script>", "small", 14)
    from tests.federation import Clinic

    receive.receive(fed.hub, Clinic(fed.hub.federation, tmp_path / "clinic").ask_in(code, "x"))
    fed.judge()
    with running(fed.hub.home, door=door) as port:
        client = Client(port, fed.hub.federation)
        cookie = client.ask("GET", f"/enter/{door.token}").headers["set-cookie"].split(";")[0]
        shown = client.ask("GET", "/", headers={"Cookie": cookie})
    assert b"<script" not in shown.body
    assert "<script>alert(1)</script>" in html.unescape(shown.body.decode())

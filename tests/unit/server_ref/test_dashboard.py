"""The dashboard: only for the person who started the front, and without scripts. Commands apply its decisions."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from fedhelp_edge.errors import NotNowError
from server_ref.admin import decisions, invites, session, unattended
from server_ref.cli.aggregate import aggregate
from server_ref.cli.status import status
from server_ref.hub import members
from server_ref.hub.tables import decisions_table
from server_ref.intake import receive
from server_ref.rounds import close, lifecycle, review
from server_ref.web.dashboard import DashboardAccess
from tests.federation import Federation
from tests.http_front import Client, FrontAnswer, running

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def with_quarantined_update(made: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A merged round, and an open one in which a site sent the base model unchanged."""
    with made.temporary_copy(tmp_path_factory.mktemp("quarantine") / "federation") as fed:
        fed.send_updates(fed.open())
        fed.aggregate()
        task = fed.open()
        fed.send_updates(task, without=("site-002", "site-003"))
        receive.receive(fed.hub, fed.clinics[1].give(task, fed.base(task)))
        fed.judge()
        row = fed.hub.database.row("SELECT hash FROM shares WHERE site = 'site-002' AND round = 2")
        assert row
        with pytest.raises(NotNowError):
            decisions.record(fed.hub, row["hash"], "release")
        close._quarantine_outliers(fed.hub, fed.coordinator_keys, lifecycle.open_round(fed.hub))
        assert fed.update_states()["site-002/2"] == "quarantined"
        yield fed


@pytest.fixture
def fed(with_quarantined_update: Federation, tmp_path: Path) -> Iterator[Federation]:
    with with_quarantined_update.temporary_copy(tmp_path / "federation") as fed:
        yield fed


@pytest.fixture
def access() -> DashboardAccess:
    return DashboardAccess()


@pytest.fixture
def client(fed: Federation, access: DashboardAccess) -> Iterator[Client]:
    with running(fed.hub.home, access=access) as port:
        yield Client(port, fed.hub.federation)


@pytest.fixture
def cookie(client: Client, access: DashboardAccess) -> dict[str, str]:
    """The cookie that a browser holds after it opened the link."""
    answer = client.ask("GET", f"/enter/{access.token}")
    assert (answer.status, answer.headers["location"]) == (303, "..")
    header = answer.headers["set-cookie"]
    assert {"httponly", "path=/", "samesite=strict"} <= {part.strip().lower() for part in header.split(";")}
    return {"Cookie": header.split(";")[0]}


def text(answer: FrontAnswer) -> str:
    """The text that a person reads."""
    return html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", answer.body.decode(), flags=re.DOTALL))


def decide(client: Client, cookie: dict[str, str], decision: str, update: str = "", form: str = "") -> FrontAnswer:
    shown = client.ask("GET", "/", headers=cookie).body.decode()
    hidden = dict(re.findall(r'name="(form|update)" value="(\w+)"', shown))
    fields = {"update": update or hidden["update"], "what": decision, "form": form or hidden["form"]}
    return client.ask("POST", "/decisions", urlencode(fields).encode(), {**cookie, **FORM})


def decide_round(client: Client, cookie: dict[str, str], decision: str, round_: str) -> FrontAnswer:
    shown = client.ask("GET", "/", headers=cookie).body.decode()
    (form,) = set(re.findall(r'name="form" value="(\w+)"', shown))
    fields = urlencode({"round": round_, "what": decision, "form": form})
    return client.ask("POST", "/decisions", fields.encode(), {**cookie, **FORM})


def shown(client: Client, cookie: dict[str, str], path: str = "/") -> str:
    return text(client.ask("GET", path, headers=cookie))


def test_it_shows_sites_the_round_the_quarantine_models_and_the_log(client: Client, cookie: dict[str, str]) -> None:
    page = text(client.ask("GET", "/", headers=cookie))
    assert "test: round 2 of 12, open" in page
    assert re.search(r"updates accepted\s+1 of 3", page)
    assert re.search(r"Still missing: site-003 \(Clinic 2\)", page)
    assert re.search(r"site-001\s+Clinic 0\s+small\s+active\s+accepted\s+20\d\d-[\d: -]+UTC\s+100\s", page)
    assert re.search(r"site-003\s+Clinic 2\s+small\s+active\s+missing", page)
    assert "site-002, round 2:" in page
    assert "E_LAZY" in page
    assert "It claims 100 training images." in page
    assert re.search(r"round\s+updates\s+model\s+accuracy at the sites\s+1\s+3\s+[0-9a-f]{16}", page)
    assert "quarantined" in page


def test_a_hub_without_an_open_round_counts_no_accepted_updates(tmp_path: Path, access: DashboardAccess) -> None:
    fed = Federation(tmp_path / "new", clinics=0)
    with running(fed.hub.home, access=access) as port:
        client = Client(port, fed.hub.federation)
        header = client.ask("GET", f"/enter/{access.token}").headers["set-cookie"]
        page = text(client.ask("GET", "/", headers={"Cookie": header.split(";")[0]}))
    assert "no round was opened yet" in page
    assert re.search(r"updates to be checked\s+0", page)
    assert "accepted" not in page


def test_a_site_that_is_missing_after_the_deadline_is_late(
    client: Client, cookie: dict[str, str], fed: Federation
) -> None:
    fed.clock.advance(days=8)
    with fed.hub.database.transaction():
        fed.hub.log("test", "time")
    assert re.search(r"site-003\s+Clinic 2\s+small\s+active\s+late", text(client.ask("GET", "/", headers=cookie)))


def test_only_the_link_opens_the_page_and_it_works_once(
    client: Client, access: DashboardAccess, cookie: dict[str, str]
) -> None:
    for headers in ({}, {"Cookie": "fedhelp_dashboard=x"}):
        answer = client.ask("GET", "/", headers=headers)
        assert (answer.status, answer.code) == (403, "E_DASHBOARD")
        assert client.ask("POST", "/decisions", b"", {**headers, **FORM}).code == "E_DASHBOARD"
    assert client.ask("GET", f"/enter/{access.token}").code == "E_DASHBOARD"
    assert client.ask("GET", "/", headers=cookie).status == 200


def test_a_page_without_the_link_says_how_to_get_one(client: Client) -> None:
    answer = client.ask("GET", "/", headers={"Accept": "text/html"})
    assert answer.status == 403
    assert "fedhelp-coordinator serve" in text(answer)


def test_a_wrong_link_or_a_preview_does_not_use_it_up(client: Client, access: DashboardAccess) -> None:
    assert client.ask("GET", "/enter/x").status == 403
    assert client.ask("HEAD", f"/enter/{access.token}").status == 405
    assert client.ask("GET", f"/enter/{access.token}").status == 303


def test_the_page_loads_and_runs_nothing(client: Client, cookie: dict[str, str]) -> None:
    answer = client.ask("GET", "/", headers=cookie)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(rb"<script|<link|src=|http-equiv=.refresh|https?://|\son\w+=", answer.body)


@pytest.mark.parametrize(("decision", "state"), [("release", "accepted"), ("refuse", "refused")])
def test_the_next_command_applies_what_a_button_decided(
    client: Client, cookie: dict[str, str], fed: Federation, decision: str, state: str
) -> None:
    assert decide(client, cookie, decision).status == 303
    assert fed.update_states()["site-002/2"] == "quarantined"
    assert f"Decided: {decision}" in text(client.ask("GET", "/", headers=cookie))
    decisions.apply(fed.hub, fed.coordinator_keys)
    assert fed.update_states()["site-002/2"] == state
    assert decisions_table.every(fed.hub.database) == {}


def test_an_unattended_coordinator_applies_decisions_and_prints_a_hint_with_each_refusal(
    client: Client, cookie: dict[str, str], fed: Federation
) -> None:
    assert decide(client, cookie, "refuse").status == 303
    _, (line, hint) = unattended.step(fed.hub, fed.coordinator_keys, None)
    assert line.startswith("site-002: refused E_")
    assert hint.startswith("    hint: ")
    assert fed.update_states()["site-002/2"] == "refused"


def test_a_decision_that_comes_too_late_is_logged_and_forgotten(
    client: Client, cookie: dict[str, str], fed: Federation
) -> None:
    assert decide(client, cookie, "release").status == 303
    review.decide(fed.hub, fed.coordinator_keys, "site-002", release=False)
    assert decisions.apply(fed.hub, fed.coordinator_keys) == []
    assert fed.update_states()["site-002/2"] == "refused"
    assert decisions_table.every(fed.hub.database) == {}
    assert fed.hub.database.rows("SELECT 1 FROM log WHERE type = 'decision void'")


def test_a_release_waits_for_an_open_round(client: Client, cookie: dict[str, str], fed: Federation) -> None:
    assert decide(client, cookie, "release").status == 303
    task = fed.hub.tasks()[2]
    receive.receive(fed.hub, fed.clinics[2].give(task, fed.drawn_update(task, fed.clinics[2])))
    fed.aggregate(now=True)
    assert decisions.apply(fed.hub, fed.coordinator_keys) == []
    fed.open()
    (result,) = decisions.apply(fed.hub, fed.coordinator_keys)
    assert result["state"] == "accepted"


def test_a_person_closes_a_round_and_opens_the_next_and_reads_what_became_of_it(
    client: Client, cookie: dict[str, str], fed: Federation
) -> None:
    before = shown(client, cookie)
    assert "'Close round 2' merges 1 accepted update and publishes the model. It needs at least 2." in before
    assert "Updates of 2 other sites then count in the next round." in before
    task = fed.hub.tasks()[2]
    receive.receive(fed.hub, fed.clinics[2].give(task, fed.drawn_update(task, fed.clinics[2])))
    fed.judge()
    assert decide_round(client, cookie, "close", "round 2").status == 303
    assert "Decided: close round 2." in shown(client, cookie)
    assert fed.hub.newest_round()["state"] == "open"
    (line,) = decisions.advance_round(fed.hub, fed.coordinator_keys)
    assert line == "decided on the dashboard: round 2: 2 updates merged"
    after = shown(client, cookie)
    assert "round 2 was closed: its updates are merged, and the model is published." in after
    assert "'Open round 3' publishes its task. 3 sites can take part, and the round stays open for 7 days." in after
    assert decide_round(client, cookie, "open", "round 3").status == 303
    assert decisions.advance_round(fed.hub, fed.coordinator_keys) == ["decided on the dashboard: round 3 is open"]
    assert "round 3 was opened." in shown(client, cookie)
    assert decisions_table.every(fed.hub.database) == {}


def test_a_round_that_lacks_its_quorum_stays_open_and_the_page_says_why(
    client: Client, cookie: dict[str, str], fed: Federation
) -> None:
    assert decide_round(client, cookie, "close", "round 2").status == 303
    line, hint = decisions.advance_round(fed.hub, fed.coordinator_keys)
    assert "void: close round 2: E_QUORUM: 1 of 3 updates, 2 are needed" in line
    assert hint.startswith("    hint: ")
    assert fed.hub.newest_round()["state"] == "open"
    assert "close round 2: it was not possible. E_QUORUM: 1 of 3 updates" in shown(client, cookie)
    assert decisions_table.every(fed.hub.database) == {}


def test_a_decision_on_a_round_can_be_withdrawn_and_none_is_for_another_round(
    client: Client, cookie: dict[str, str], fed: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    for decision, round_ in (("close", "round 1"), ("open", "round 3"), ("open", "round 2"), ("drop", "round 2")):
        assert decide_round(client, cookie, decision, round_).code == "E_STATE"
    assert decide_round(client, cookie, "close", "round 2").status == 303
    status(home=fed.hub.home)
    assert "\ndecided     close round 2, on the dashboard; the next command carries it out\n" in capsys.readouterr().out
    assert decide_round(client, cookie, "withdraw", "round 2").status == 303
    status(home=fed.hub.home)
    assert "\ndecided" not in capsys.readouterr().out
    assert decisions_table.every(fed.hub.database) == {}


def test_what_a_command_did_to_a_round_makes_the_decision_obsolete(
    client: Client, cookie: dict[str, str], fed: Federation
) -> None:
    assert decide_round(client, cookie, "close", "round 2").status == 303
    task = fed.hub.tasks()[2]
    receive.receive(fed.hub, fed.clinics[2].give(task, fed.drawn_update(task, fed.clinics[2])))
    fed.aggregate(now=True)
    assert decisions.advance_round(fed.hub, fed.coordinator_keys) == []
    assert fed.hub.newest_round()["state"] == "merged"
    assert decisions_table.every(fed.hub.database) == {}


def test_the_next_command_closes_the_round_at_its_end_and_aggregate_takes_it_as_now(
    client: Client, cookie: dict[str, str], fed: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    task = fed.hub.tasks()[2]
    receive.receive(fed.hub, fed.clinics[2].give(task, fed.drawn_update(task, fed.clinics[2])))
    assert decide_round(client, cookie, "close", "round 2").status == 303
    with session.unlocked_hub(fed.hub.home, None) as (hub, _):
        assert hub.newest_round()["state"] == "open"
    assert "decided on the dashboard: round 2: 2 updates merged" in capsys.readouterr().err
    fed.send_updates(fed.open(), without=("site-003",))
    assert decide_round(client, cookie, "close", "round 3").status == 303
    aggregate(home=fed.hub.home)
    printed = capsys.readouterr()
    assert "round 3: 2 updates merged" in printed.out
    assert "dashboard" not in printed.err
    assert fed.hub.newest_round()["state"] == "merged"


def test_the_front_shows_the_command_for_an_invite_and_makes_none(
    client: Client, cookie: dict[str, str], fed: Federation
) -> None:
    before = len(invites.list_all(fed.hub))
    page = shown(client, cookie, f"/invite?{urlencode({'name': 'St. Mary $HOME', 'tier': 'large', 'days': '7'})}")
    assert r"fedhelp-coordinator invite St.\ Mary\ \$HOME --tier large --days 7 --out site.invite" in page
    for field, value in (("tier", "huge"), ("days", "0"), ("name", "-x")):
        assert "no name begins with -" in shown(
            client, cookie, f"/invite?{urlencode({'name': 'A', 'tier': 'small', 'days': '7', field: value})}"
        )
    assert client.ask("GET", "/invite").code == "E_DASHBOARD"
    assert client.ask("POST", "/invite", b"name=A", {**cookie, **FORM}).status == 405
    assert len(invites.list_all(fed.hub)) == before
    members.invite(fed.hub, "Clinic X", "small", 14)
    assert re.search(r"site-004\s+Clinic X\s+small\s+[-\dT:Z]+\s+open", shown(client, cookie, "/invite"))


@pytest.mark.parametrize(
    ("decision", "update", "form"),
    [("release", "", "0" * 64), ("release", "site-002", ""), ("drop", "", ""), ("refuse", "'; --", "")],
)
def test_a_foreign_or_malformed_form_decides_nothing(
    client: Client, cookie: dict[str, str], fed: Federation, decision: str, update: str, form: str
) -> None:
    answer = decide(client, cookie, decision, update, form)
    assert (answer.status, answer.code) in ((400, "E_REQUEST"), (409, "E_STATE"))
    assert decisions_table.every(fed.hub.database) == {}


def test_names_that_contain_html_are_shown_as_text(tmp_path: Path, access: DashboardAccess) -> None:
    fed = Federation(tmp_path / "other", clinics=0)
    code, _ = members.invite(fed.hub, "<script>alert(1)</script>", "small", 14)
    from tests.federation import SimulatedClinic

    receive.receive(fed.hub, SimulatedClinic(fed.hub.federation, tmp_path / "clinic").enrolment_request(code, "x"))
    fed.judge()
    with running(fed.hub.home, access=access) as port:
        client = Client(port, fed.hub.federation)
        cookie = client.ask("GET", f"/enter/{access.token}").headers["set-cookie"].split(";")[0]
        shown = client.ask("GET", "/", headers={"Cookie": cookie})
    assert b"<script" not in shown.body
    assert "<script>alert(1)</script>" in html.unescape(shown.body.decode())

"""More sites than one age file can have recipients, or a roster can name: tested with groups of three and a small
roster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fedhelp_edge import audit as site_audit
from fedhelp_edge.errors import AuditGapError, FederationFullError, KeyReusedError, NoMatchError
from fedhelp_edge.exchange.folder import FROM_COORDINATOR, FolderCarrier
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.parcel.statement import list_digest
from fedhelp_edge.site import inbox, layout, verified
from fedhelp_edge.trust import roster
from fedhelp_edge.trust.roster import Site
from server_ref.admin import audit_export, exchange
from server_ref.hub import hub, members, models
from server_ref.hub.tables import invites_table
from server_ref.intake import receive
from server_ref.rounds import lifecycle
from tests.clinic import Clinic as RealSite
from tests.federation import Federation, SimulatedClinic, nobody


@pytest.fixture(scope="module")
def made_eight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "GROUP_SIZE", 3)
        made = Federation(tmp_path_factory.mktemp("eight") / "made", clinics=8)
        made.send_updates(made.open())
        made.aggregate()
    yield made
    made.hub.database.close()


@pytest.fixture
def eight(made_eight: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    """Eight clinics whose model is sealed in three parcels; one round is merged."""
    monkeypatch.setattr(models, "GROUP_SIZE", 3)
    with made_eight.temporary_copy(tmp_path / "federation") as lent:
        yield lent


def model_parcels(federation: Federation) -> list[Path]:
    return [federation.hub.database.parcel_path(hash_) for hash_ in models.newest_parcels(federation.hub)]


def opens(path: Path, clinic: SimulatedClinic) -> bool:
    try:
        with parcel.open(path, parcel.any_signer, [clinic.keys.identity]):
            return True
    except NoMatchError:
        return False


def readers(federation: Federation) -> list[list[str]]:
    """By parcel of the newest model, the clinics that can open it."""
    return [[clinic.id for clinic in federation.clinics if opens(path, clinic)] for path in model_parcels(federation)]


def test_the_1024th_site_joins_and_the_next_round_opens(three: Federation) -> None:
    """One age file cannot have so many recipients. The sites in between are only lines of the roster."""
    sites = list(three.hub.roster.sites)
    for number in range(len(sites) + 1, 1024):
        public = keys.generate().public
        sites.append(Site(f"site-{number:03}", "", "small", public.sign, public.recipient))
    rows = [(f"{number:032x}", site.id, "2020-01-01T00:00:00Z") for number, site in enumerate(sites[3:])]
    with three.hub.database.transaction():
        for row in rows:
            query = "INSERT INTO invites (id, proof, site, name, tier, expires, vouch) VALUES (?, '', ?, '', '', ?, '')"
            three.hub.database.run(query, *row)
        members.write_roster(three.hub, three.coordinator_keys, sites)
    newcomer = three.join()
    assert newcomer.id == "site-1024"
    assert three.open().round == 1
    assert [opens(path, newcomer) for path in model_parcels(three)] == [False, True]


def test_a_model_is_sealed_to_each_group_of_sites_and_to_nobody_twice(eight: Federation) -> None:
    assert readers(eight) == [
        ["site-001", "site-002", "site-003"], ["site-004", "site-005", "site-006"], ["site-007", "site-008"],
    ]  # fmt: skip
    contexts = [parcel.inspect(path, parcel.any_signer).statement.context for path in model_parcels(eight)]
    assert len({(context["base"], context["round"]) for context in contexts}) == 1
    assert [context["readers"]["count"] for context in contexts] == [4, 4, 3]  # the hub reads all of them


def test_a_newcomer_causes_one_parcel_for_its_own_group(eight: Federation) -> None:
    before = model_parcels(eight)
    eight.join()
    assert model_parcels(eight)[:2] == before[:2]
    assert readers(eight)[2] == ["site-007", "site-008", "site-009"]
    eight.join()
    assert [len(group) for group in readers(eight)] == [3, 3, 3, 1]


def test_revoked_sites_get_no_model_and_a_group_without_active_sites_gets_no_parcel(eight: Federation) -> None:
    revoked = ("site-005", "site-007", "site-008")
    for site in revoked:
        members.revoke(eight.hub, eight.coordinator_keys, site, 1, "")
    eight.send_updates(eight.open(), without=revoked)
    eight.aggregate()
    assert readers(eight) == [["site-001", "site-002", "site-003"], ["site-004", "site-006"]]


def test_after_a_failed_round_the_parcels_of_all_groups_are_still_delivered(eight: Federation) -> None:
    eight.open()
    lifecycle.cancel_round(eight.hub, lifecycle.open_round(eight.hub))
    eight.join()
    assert [len(group) for group in readers(eight)] == [3, 3, 3]


def test_sites_find_their_groups_parcel_on_a_stick_and_store_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "GROUP_SIZE", 2)
    federation = Federation(tmp_path / "federation", clinics=0)
    sites = [RealSite(federation, tmp_path / f"site{number}") for number in range(3)]
    for site in sites:
        site.join()
    for site in sites:
        site.carry_stick()
    federation.open()
    exchange.deliver(federation.hub, tmp_path / "stick" / FROM_COORDINATOR)
    for site in sites:
        taken = inbox.download(site.home, [FolderCarrier(tmp_path / "stick")], nobody)
        assert taken.refused == []
        assert site.state == "ready"
        assert len(list((site.home / "global").glob("*.fhx"))) == 1
        assert inbox.download(site.home, [FolderCarrier(tmp_path / "stick")], nobody).new == []


def test_a_model_for_another_group_on_the_stick_does_not_hinder_a_site(eight: Federation) -> None:
    """A site that has stored another group's parcel, because only that was there, still stores its own."""
    site = RealSite(eight, eight.folder / "real")  # site-009, in the third group
    site.join_and_fetch_task()
    assert site.state == "ready"
    task = verified.require_state(site.home).task
    assert task
    shutil.rmtree(site.home / "global")
    layout.base_path(site.home, task).unlink()
    stick = site.stick / FROM_COORDINATOR
    own_parcel = models.newest_parcel(eight.hub, "2")
    aside = (stick / f"{own_parcel}.fhx").rename(eight.folder / "aside")
    (stick / f"{models.newest_parcel(eight.hub, '1')}.fhx").unlink()
    with pytest.raises(NoMatchError):
        site.download()
    aside.rename(stick / f"{own_parcel}.fhx")
    site.download()
    assert site.state == "ready"


def test_over_the_network_a_site_gets_its_own_groups_parcel(eight: Federation) -> None:
    net = pytest.importorskip("tests.http_front")
    with net.running(eight.folder / "hub") as port:
        client = net.Client(port, eight.hub.federation)
        for clinic in (eight.clinics[0], eight.clinics[5], eight.clinics[7]):
            (listed,) = client.current_hashes(clinic.keys)["global"]
            assert opens(eight.hub.database.parcel_path(listed), clinic)


def test_few_sites_get_one_parcel_that_names_them_and_the_inputs(three: Federation) -> None:
    three.send_updates(three.open())
    three.aggregate()
    (model,) = model_parcels(three)
    with parcel.open(model, parcel.any_signer, [three.clinics[2].keys.identity]) as seen:
        assert seen.statement.context["inputs"] == list_digest(seen.facts["inputs"])
        assert seen.statement.context["readers"] == list_digest(seen.facts["readers"])
        assert len(seen.facts["readers"]) == 4
    (line,) = three.hub.database.rows("SELECT detail FROM log WHERE type = 'merge'")
    assert json.loads(line["detail"]).keys() == {"model", "parcel", "roster", "shares", "task"}


def test_an_audit_export_has_the_model_for_every_group_and_detects_a_missing_one(
    eight: Federation, tmp_path: Path
) -> None:
    audit_export.export_round(eight.hub, 1, tmp_path / "round")
    assert len(site_audit.check(tmp_path / "round").merged) == 8
    (tmp_path / "round" / model_parcels(eight)[1].name).unlink()
    with pytest.raises(AuditGapError, match="model for other sites is missing"):
        site_audit.check(tmp_path / "round")


def test_inputs_that_would_not_fit_into_the_parcel_are_named_by_the_log(eight: Federation) -> None:
    """With groups of three, eight inputs are too many for the facts; the statement binds the list."""
    with parcel.open(model_parcels(eight)[0], parcel.any_signer, [eight.clinics[0].keys.identity]) as seen:
        assert "inputs" not in seen.facts
        assert seen.statement.context["inputs"] == list_digest(models.inputs_of(eight.hub, 1))


def test_the_updates_of_4000_sites_fit_into_the_lines_of_a_parcel(three: Federation) -> None:
    (start,) = three.hub.database.rows("SELECT model FROM rounds WHERE round = 0")
    with three.hub.database.transaction():
        inputs = [f"{number:064x}" for number in range(4000)]
        models.publish(three.hub, three.coordinator_keys, 0, start["model"], inputs, "start")
    three.send_updates(three.open())
    assert three.aggregate()["published"]


# --- many at once ------------------------------------------------------------------------------------------------
def waiting_clinics(federation: Federation, count: int) -> list[SimulatedClinic]:
    """Clinics whose requests to join wait."""
    made = []
    for _ in range(count):
        clinic = SimulatedClinic(federation.hub.federation, federation.folder / f"new{len(made)}")
        code, clinic.id = members.invite(federation.hub, "New", "small", 14)
        receive.receive(federation.hub, clinic.enrolment_request(code))
        made.append(clinic)
    return made


def test_all_waiting_sites_are_admitted_by_one_roster(three: Federation) -> None:
    new, before = waiting_clinics(three, 6), three.hub.roster.version
    decided = three.judge()
    assert [(decision["site"], decision["state"]) for decision in decided] == [
        (clinic.id, "approved") for clinic in new
    ]
    assert three.hub.roster.version == before + 1
    assert (
        len(three.hub.database.rows("SELECT 1 FROM parcels WHERE kind = 'global'")) == 5
    )  # the start, three joins, now


def test_the_same_keys_on_two_invites_are_admitted_once(three: Federation) -> None:
    first, second = waiting_clinics(three, 2)
    second.keys = first.keys
    code, site = members.invite(three.hub, "Again", "small", 14)
    receive.receive(three.hub, second.enrolment_request(code))
    decided = {decision["site"]: decision for decision in three.judge()}
    assert decided[first.id]["state"] == "approved"
    assert (decided[site]["state"], decided[site]["code"]) == ("refused", KeyReusedError.code)


# --- the roster is full ------------------------------------------------------------------------------------------
def limit(federation: Federation, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    """Limits the roster to its present size plus so many bytes plus the spare."""
    size = parcel.inspect(
        federation.hub.database.parcel_path(federation.hub.roster.hash), parcel.any_signer
    ).statement.size
    monkeypatch.setattr(members, "ROSTER_SPARE", 200)
    monkeypatch.setattr(members, "ROSTER_LIMIT", size + more + 200)


def test_a_site_beyond_the_size_of_a_real_roster_is_refused_and_blocks_no_other(three: Federation) -> None:
    """About 15,000 sites that left long ago and share one key."""
    public, sites = keys.generate().public, list(three.hub.roster.sites)
    left = Site("site-10000", "", "small", public.sign, public.recipient, "left")
    length = len(hub.to_json(roster.body(sites, public.sign, public.recipient, three.clock())))
    room = members.ROSTER_LIMIT - length - 100
    sites += [replace(left, id=f"site-{10_000 + n}") for n in range(room // (len(hub.to_json(asdict(left))) + 1))]
    with three.hub.database.transaction():
        members.write_roster(three.hub, three.coordinator_keys, sites)
    with pytest.raises(FederationFullError):
        members.invite(three.hub, "One too many", "small", 14)
    three.send_updates(three.open())
    assert three.aggregate()["published"]


def test_an_invite_is_refused_if_the_roster_has_no_room_for_its_site(
    three: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(three, monkeypatch, 700)
    members.invite(three.hub, "A", "small", 14)
    members.invite(three.hub, "B", "small", 14)
    with pytest.raises(FederationFullError):
        members.invite(three.hub, "C", "small", 14)
    assert len(invites_table.every(three.hub.database)) == 5
    members.cancel_invite(three.hub, "site-004")  # makes room again
    members.invite(three.hub, "C", "small", 14)


def test_sites_that_do_not_fit_into_the_roster_are_refused_and_block_no_other(
    three: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = waiting_clinics(three, 4)
    limit(three, monkeypatch, 700)  # as if an older program had issued the invites
    decided = {decision["site"]: decision for decision in three.judge()}
    assert [decided[clinic.id]["state"] for clinic in new] == ["approved", "approved", "refused", "refused"]
    assert decided[new[2].id]["code"] == FederationFullError.code
    assert three.judge() == []
    three.send_updates(three.open())
    assert len(three.aggregate(now=True)["accepted"]) == 3


def test_a_site_can_be_revoked_in_a_full_roster_without_a_reason(
    three: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(three, monkeypatch, 0)
    before = three.hub.roster
    with pytest.raises(FederationFullError) as fault:
        members.revoke(three.hub, three.coordinator_keys, "site-001", 1, "a long story")
    assert "without a --reason" in fault.value.remedy
    assert three.hub.roster == before
    members.revoke(three.hub, three.coordinator_keys, "site-001", 1, "")
    assert replace(before.sites[0], status="revoked", since_round=1) == three.hub.roster.sites[0]

"""A round that the coordinator hands out holds against everybody, the coordinator too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedhelp_edge.errors import AuditGap, FedhelpError, LogBroken
from fedhelp_edge.parcel import parcel
from fedhelp_edge.site import audit
from server_ref import audit as hubs
from server_ref import intake
from tests.federation import Federation


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    made = Federation(tmp_path_factory.mktemp("federation"))
    made.play(made.open())
    made.aggregate()
    order = made.open()
    made.play(order, without=("site-003",))
    intake.receive(made.hub, made.clinics[2].give(order, made.base(order)))  # in quarantine, for it is the base
    made.judge()
    made.aggregate(now=True)
    return made


@pytest.fixture
def out(three: Federation, tmp_path: Path) -> Path:
    hubs.export(three.hub, 2, tmp_path / "round-2")
    return tmp_path / "round-2"


def test_a_round_that_was_handed_out_holds(three: Federation, out: Path) -> None:
    found = audit.check(out)
    assert (found.federation, found.round) == (three.hub.federation, 2)
    assert [row["site"] for row in found.merged] == ["site-001", "site-002"]
    assert [(row["site"], row["state"]) for row in found.others] == [("site-003", "quarantined")]
    assert found.log.length == three.hub.store.head().length


def test_every_round_of_a_federation_holds(three: Federation, tmp_path: Path) -> None:
    for round_ in (0, 1):
        hubs.export(three.hub, round_, tmp_path / str(round_))
        assert audit.check(tmp_path / str(round_)).round == round_


def of_kind(out: Path, kind: str) -> Path:
    return next(path for path in sorted(out.glob("*.fhx")) if parcel.look(path, parcel.anyone).statement.kind == kind)


@pytest.mark.parametrize("kind", ["charter", "roster", "global"])
def test_a_parcel_that_is_kept_back_is_noticed(out: Path, kind: str) -> None:
    for path in out.glob("*.fhx"):
        if parcel.look(path, parcel.anyone).statement.kind == kind:
            path.unlink()
    with pytest.raises(AuditGap):
        audit.check(out)


def test_a_share_that_is_kept_back_is_noticed(three: Federation, out: Path) -> None:
    merged = three.hub.store.rows("SELECT hash FROM shares WHERE counts = 2 AND state = 'merged'")
    (out / f"{merged[0]['hash']}.fhx").unlink()
    with pytest.raises(AuditGap, match="not those that the model was made of"):
        audit.check(out)


def test_any_byte_that_is_changed_in_any_parcel_is_noticed(out: Path) -> None:
    for path in sorted(out.glob("*.fhx")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(FedhelpError):
            audit.check(out)
        path.write_bytes(whole)
    audit.check(out)


def reword(line: str) -> str:
    said = json.loads(line)
    return json.dumps({**said, "type": "accepted" if said["type"] == "quarantined" else "quarantined"}, sort_keys=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [reword(lines[0]), *lines[1:]],
        lambda lines: [*lines[:5], *lines[6:]],
        lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]],
        lambda lines: [*lines[:-3], reword(lines[-3]), *lines[-2:]],
        lambda lines: ["no json", *lines],
        lambda lines: lines[:10],  # the receipts of later lines know better
    ],
    ids=["reworded", "left out", "swapped", "late", "no JSON", "cut short"],
)
def test_a_log_that_was_changed_is_noticed(out: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = out / "log.jsonl"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(LogBroken):
        audit.check(out)

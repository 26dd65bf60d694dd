"""An exported round can be audited by anybody; nobody can change it unnoticed, not even the coordinator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge import audit
from fedhelp_edge.errors import AuditGapError, FedhelpError, LogBrokenError
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.trust.log import Log, line_hash
from server_ref.admin import audit_export as hubs
from server_ref.hub.hub import Hub
from server_ref.hub.tables import log_table
from server_ref.intake import receive
from tests.command import error_code, run_in_process
from tests.federation import Federation


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("federation"))
    federation.send_updates(federation.open())
    federation.aggregate()
    task = federation.open()
    federation.send_updates(task, without=("site-003",))
    receive.receive(
        federation.hub, federation.clinics[2].give(task, federation.base(task))
    )  # quarantined, because it is the base model
    federation.judge()
    federation.aggregate(now=True)
    return federation


@pytest.fixture
def out(three: Federation, tmp_path: Path) -> Path:
    hubs.export_round(three.hub, 2, tmp_path / "round-2")
    return tmp_path / "round-2"


def test_an_exported_round_passes_the_audit(three: Federation, out: Path) -> None:
    report = audit.check(out)
    assert (report.federation, report.round) == (three.hub.federation, 2)
    assert [row["site"] for row in report.merged] == ["site-001", "site-002"]
    assert [(row["site"], row["state"]) for row in report.others] == [("site-003", "quarantined")]
    rows = [*report.merged, *report.others]
    assert all(row["update"] == row["share"] for row in rows), "its name before, for one version"
    assert report.log.length == log_table.head(three.hub.database).length


def test_every_round_of_a_federation_passes_the_audit(three: Federation, tmp_path: Path) -> None:
    for round_ in (0, 1):
        hubs.export_round(three.hub, round_, tmp_path / str(round_))
        assert audit.check(tmp_path / str(round_)).round == round_


@contextmanager
def later_than(three: Federation, folder: Path) -> Iterator[Federation]:
    """The same federation after a later round."""
    with three.temporary_copy(folder / "later") as later:
        three.hub = Hub(three.folder / "hub", clock=three.clock)
        yield later


def kinds(out: Path) -> dict[Path, str]:
    return {path: parcel.inspect(path, parcel.any_signer).statement.kind for path in sorted(out.glob("*.fhx"))}


def context_of(path: Path) -> Mapping[str, Any]:
    return parcel.inspect(path, parcel.any_signer).statement.context


def fails(out: Path, *names: str) -> None:
    """Checks that the audit ends with a FedhelpError that names the file."""
    with pytest.raises(FedhelpError) as caught:
        audit.check(out)
    assert any(name in caught.value.cause for name in names), caught.value.cause


def test_an_export_has_every_kind_of_file(out: Path) -> None:
    assert set(kinds(out).values()) == {"charter", "roster", "task", "global", "update", "receipt"}
    assert {path.name for path in out.iterdir()} - {path.name for path in kinds(out)} == {
        "log.jsonl",
        "allowed_signers",
    }


def test_any_removed_file_is_named(out: Path) -> None:
    for path in sorted(out.iterdir()):
        original = path.read_bytes()
        kind = parcel.inspect(path, parcel.any_signer).statement.kind if path.suffix == ".fhx" else ""
        version = (
            parcel.inspect(path, parcel.any_signer).statement.context["version"] if kind in ("charter", "roster") else 0
        )
        path.unlink()
        what = {"receipt": "the receipt of line"}.get(kind, f"{kind} {version} is missing" if version else path.name)
        fails(out, path.name, what)
        path.write_bytes(original)
    audit.check(out)


def test_several_removed_files_are_detected(three: Federation, out: Path) -> None:
    """An update with its receipts; the model with the task; all receipts; everything signed."""
    kind_of = kinds(out)
    updates = [path for path, kind in kind_of.items() if kind == "update"]
    receipts = [path for path, kind in kind_of.items() if kind == "receipt"]
    first_receipts = [path for path in receipts if context_of(path)["about"] == updates[0].stem]
    groups = [
        updates,
        [path for path, kind in kind_of.items() if kind in ("global", "task")],
        receipts,
        [path for path, kind in kind_of.items() if kind in ("receipt", "task", "global")],
        [updates[0], *first_receipts],
    ]
    for group in groups:
        original = {path: path.read_bytes() for path in group}
        for path in group:
            path.unlink()
        fails(out, *(path.name for path in group), "the receipt of line")
        for path, data in original.items():
            path.write_bytes(data)


def test_a_changed_byte_anywhere_names_its_file(out: Path) -> None:
    for path in sorted(out.iterdir()):
        original = path.read_bytes()
        for index in (0, len(original) // 2, len(original) - 2):
            path.write_bytes(original[:index] + bytes([original[index] ^ 1]) + original[index + 1 :])
            fails(out, path.name)
        for changed in (original[:-1], original + b"x"):
            path.write_bytes(changed)
            fails(out, path.name)
        path.write_bytes(original)
    audit.check(out)


def test_a_file_in_place_of_another_is_named(out: Path) -> None:
    paths = sorted(out.iterdir())
    for path, other in zip(paths, [*paths[1:], paths[0]], strict=True):
        original = path.read_bytes()
        path.write_bytes(other.read_bytes())
        fails(out, path.name)
        path.write_bytes(original)
    audit.check(out)


def test_a_file_under_another_name_is_named(out: Path) -> None:
    for path in sorted(out.iterdir()):
        other = path.rename(out / (f"{'0' * 64}.fhx" if path.suffix else "signers"))
        fails(out, path.name, other.name)
        other.rename(path)


def test_an_unexpected_file_is_named(three: Federation, out: Path, tmp_path: Path) -> None:
    names = {path.name for path in out.iterdir()}
    for round_ in (0, 1):
        hubs.export_round(three.hub, round_, tmp_path / str(round_))
    foreign = [path for round_ in (0, 1) for path in (tmp_path / str(round_)).glob("*.fhx") if path.name not in names]
    assert len(foreign) > 10
    for path in foreign:
        (out / path.name).write_bytes(path.read_bytes())
        fails(out, path.name)
        (out / path.name).unlink()
    for name in ("notes.txt", ".hidden", "copy.fhx", f"{'A' * 64}.fhx"):
        (out / name).write_bytes(b"")
        fails(out, name)
        (out / name).unlink()
    path = next(path for path, kind in kinds(out).items() if kind == "update")
    data = path.rename(tmp_path / "elsewhere.fhx")
    path.symlink_to(data)
    fails(out, path.name)


def test_a_later_or_unnamed_roster_is_detected(three: Federation, out: Path, tmp_path: Path) -> None:
    with later_than(three, tmp_path) as later:
        later.join()
        hash_ = later.hub.newest_parcel("roster")["hash"]
        (out / f"{hash_}.fhx").write_bytes(later.hub.database.parcel_path(hash_).read_bytes())
    fails(out, f"{hash_}.fhx")


def test_a_parcel_signed_by_an_attacker_is_refused(three: Federation, out: Path) -> None:
    """A receipt with the right line and state, signed with the wrong key."""
    path = next(path for path, kind in kinds(out).items() if kind == "receipt")
    with parcel.open(path, parcel.any_signer) as opened:
        statement, body = opened.statement, opened.body.read()
    path.unlink()
    stranger = keys.generate()
    forged = parcel.seal(out / "forged", statement.context, body, stranger.sign)
    (out / "forged").rename(out / f"{forged.hash}.fhx")
    fails(out, f"{forged.hash}.fhx")


def test_an_export_of_an_early_round_stays_the_same_after_later_rounds(three: Federation, tmp_path: Path) -> None:
    hubs.export_round(three.hub, 1, tmp_path / "before")
    with later_than(three, tmp_path) as later:
        later.join()
        later.send_updates(later.open())
        later.aggregate()
        hubs.export_round(later.hub, 1, tmp_path / "after")
    files = {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "after").iterdir()}


def test_an_update_that_is_withheld_is_detected(three: Federation, out: Path) -> None:
    merged = three.hub.database.rows("SELECT hash FROM shares WHERE counts = 2 AND state = 'merged'")
    (out / f"{merged[0]['hash']}.fhx").unlink()
    with pytest.raises(AuditGapError, match="not those that were merged"):
        audit.check(out)


def reword(line: str) -> str:
    entry = json.loads(line)
    return json.dumps(
        {**entry, "type": "accepted" if entry["type"] == "quarantined" else "quarantined"}, sort_keys=True
    )


def test_every_line_of_the_log_is_protected(out: Path) -> None:
    path = out / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for index, line in [*list(enumerate(lines))[::3], (len(lines) - 1, lines[-1])]:
        entry = json.loads(line)
        rest, spaced = lines[:index], line.replace(": ", ":  ", 1)
        for changed in (
            [*rest, *lines[index + 1 :]],
            [*rest, line, *lines[index:]],
            [*rest, spaced, *lines[index + 1 :]],
            rest,
        ):
            path.write_text("".join(changed))
            fails(out, "log.jsonl")
        rewritten, head = [], json.loads(lines[index - 1])["hash"] if index else ""
        for other in ({**entry, "time": "2026-01-01T00:00:00Z"}, *map(json.loads, lines[index + 1 :])):
            other.pop("hash")
            head = line_hash(head, other) if head else line_hash(Log().head, other)
            rewritten.append(json.dumps({**other, "hash": head}, sort_keys=True) + "\n")
        path.write_text("".join([*rest, *rewritten]))  # a valid chain, but not the signed one
        fails(out, "log.jsonl")
    path.write_text("".join(lines))
    audit.check(out)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [reword(lines[0]), *lines[1:]],
        lambda lines: [*lines[:5], *lines[6:]],
        lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]],
        lambda lines: [*lines[:-3], reword(lines[-3]), *lines[-2:]],
        lambda lines: ["no json", *lines],
        lambda lines: lines[:10],  # receipts name later lines
    ],
    ids=["reworded", "left out", "swapped", "late", "no JSON", "cut short"],
)
def test_a_changed_log_is_detected(out: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = out / "log.jsonl"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(LogBrokenError):
        audit.check(out)


def test_a_folder_that_is_not_there_is_named_and_not_its_log(tmp_path: Path) -> None:
    refused = run_in_process("audit", "nowhere", home=tmp_path)
    assert error_code(refused) == "E_FILE_MISSING"
    assert "nowhere is not there" in refused.stderr

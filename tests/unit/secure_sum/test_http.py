"""A secure round over HTTP: a helper at a real front on loopback, and those who try to get or to give more there."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge import unattended
from fedhelp_edge.errors import FedhelpError, NotAFrontError, RefusedThereError
from fedhelp_edge.exchange.folder import FROM_COORDINATOR
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.helper import answering, carrier
from fedhelp_edge.helper import home as homes
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.secure_sum import parcels
from fedhelp_edge.site import layout
from server_ref.hub.hub import to_json
from server_ref.hub.tables import parcels_table, rounds_table
from server_ref.rounds import lifecycle
from server_ref.web.limits import Limits
from tests import command, hostile_front, http_front
from tests.faulty_proxy import Fault, proxy_to
from tests.hostile_front import ReceivedRequest, response
from tests.http_front import Client
from tests.site_and_hub import Completed, fails_with, succeeds
from tests.unit.secure_sum.federation import SecureFederation

pytest.importorskip("uvicorn")
NONCE = "Fedhelp-Nonce: " + "0" * 64


@pytest.fixture
def port(fed: SecureFederation) -> Iterator[int]:
    with http_front.running(fed.hub.home) as number:
        yield number


def answer(fed: SecureFederation, port: int, give_up_after: float = 5) -> answering.Outcome:
    """The helper asks the front."""
    way = carrier.choose(fed.helper, None, f"http://127.0.0.1:{port}", None, lambda: "", give_up_after=give_up_after)
    return answering.answer(fed.helper, way, lambda: "")


def sum_here(fed: SecureFederation) -> Path:
    """A copy of the answer that lies at the helper, under the name of a parcel."""
    (path,) = (fed.helper / homes.ANSWERS).glob("*.fhx")
    return Path(shutil.copy(path, fed.folder / f"{parcel.inspect(path, parcel.any_signer).statement.hash}.fhx"))


def at_the_hub(fed: SecureFederation, round_: int = 1) -> str:
    """The hash of the helper's sum that the hub has, or ""."""
    return parcels_table.sum_of_round(fed.hub.database, round_)


def refusal(fed: SecureFederation, port: int) -> str:
    """The code with which the helper refuses, after which the hub has no sum."""
    with pytest.raises(FedhelpError) as caught:
        answer(fed, port)
    assert not at_the_hub(fed)
    return caught.value.code


def name(fed: SecureFederation, seeds: list[bytes]) -> None:
    """A coordinator names another set than its program would: its key signs, and its own front serves it."""
    row = fed.hub.newest_round()
    fields = {"epoch": fed.hub.charter.epoch, "round": row["round"], "task": row["task"], "base": row["base"]}
    with fed.hub.database.transaction():
        sealed = fed.hub.publish(
            "set", to_json(parcels.set_body(seeds)), fed.coordinator_keys, number=row["round"],
            federation=fed.hub.federation, **fields,
        )  # fmt: skip
        rounds_table.begin_sum(fed.hub.database, row["round"], json.dumps({"set": sealed.hash, "line": 0}))


# --- the walk of a round ---------------------------------------------------------------------------------------------
def test_the_front_carries_the_same_bytes_as_a_stick(fed: SecureFederation, tmp_path: Path) -> None:
    task = fed.open()
    fed.send_updates(task)
    fed.aggregate()
    models, sums = [], []
    with fed.temporary_copy(tmp_path / "other") as other, http_front.running(other.hub.home) as port:
        assert (answer(other, port).state, answer(other, port).state) == ("answered", "again")
        fed.exchange()
        fed.answer()
        fed.exchange()
        for federation in (fed, other):
            path = federation.hub.database.parcel_path(at_the_hub(federation))
            sums.append(path.read_bytes())
            models.append(federation.aggregate()["merged_sha256"])
    assert sums[0] == sums[1]
    assert models[0] == models[1]


def test_rounds_follow_each_other_and_a_sum_that_comes_both_ways_counts_once(fed: SecureFederation, port: int) -> None:
    assert answer(fed, port).state == "nothing"  # before the first round
    fed.ask()
    assert fed.answer().state == "answered"
    assert answer(fed, port).state == "again"  # the front has it now
    assert [taken.new for taken in fed.exchange().taken] == [False]
    assert fed.aggregate()["published"]
    assert answer(fed, port).state == "nothing"
    fed.ask(without=("site-002",))
    assert answer(fed, port).sites == ["site-001", "site-003", "site-004"]
    assert fed.aggregate()["accepted"] == ["site-001", "site-003", "site-004"]


def test_a_broken_line_costs_nothing(fed: SecureFederation, port: int) -> None:
    fed.ask()
    faults = (Fault(to_site=size, reset=size % 2 == 1) for size in (0, 301, 900, 2001, 4000, 9001, 9000, 20_000))
    with proxy_to(port, itertools.chain(faults, itertools.repeat(Fault()))) as broken:
        assert answer(fed, broken).state == "answered"
    assert fed.aggregate()["published"]


@pytest.mark.parametrize(("intact", "refused"), [(-9, ["E_PAYLOAD_HASH"]), (0, []), (500, [])])
def test_a_set_that_was_damaged_on_its_way_or_here_is_fetched_again(
    fed: SecureFederation, port: int, intact: int, refused: list[str]
) -> None:
    """A download proves that the statement is whole, and a power cut may empty a file: the helper looks again."""
    fed.ask()
    incoming = fed.helper / layout.INCOMING
    incoming.mkdir()
    source = fed.named_set()
    (incoming / source.name).write_bytes(source.read_bytes()[:intact] + b"\0" * max(0, -intact))
    outcome = answer(fed, port)
    assert (outcome.state, [each["code"] for each in outcome.refused]) == ("nothing", refused)
    assert answer(fed, port).state == "answered"


def test_a_damaged_set_on_a_stick_is_named_and_stops_no_helper(fed: SecureFederation) -> None:
    fed.ask()
    path = fed.named_set()
    data = path.read_bytes()
    path.write_bytes(data[:-9] + b"\0" * 9)  # it is still being copied
    assert [each["code"] for each in fed.answer().refused] == ["E_PAYLOAD_HASH"]
    path.write_bytes(data)
    assert fed.answer().state == "answered"


def test_a_front_that_is_killed_within_a_sum_gets_the_rest(fed: SecureFederation) -> None:
    fed.ask()
    fed.answer()
    path = sum_here(fed)
    data = path.read_bytes()
    with http_front.serving(fed.hub.home) as process:
        client = Client(process.port, fed.hub.federation)
        offset = client.begin(path).offset
        client.append(path.stem, offset, data[offset : offset + 9000])
        process.end(signal.SIGKILL)
    with http_front.running(fed.hub.home) as port:
        assert Client(port, fed.hub.federation).offset_of(path.stem).offset == offset + 9000
        assert answer(fed, port).state == "again"
    assert fed.hub.database.parcel_path(at_the_hub(fed)).read_bytes() == data
    assert fed.aggregate()["published"]


# --- who may read and send -------------------------------------------------------------------------------------------
def test_the_helper_reads_what_it_verifies_and_nothing_else(fed: SecureFederation, port: int) -> None:
    fed.ask()
    client, helper_keys = Client(port, fed.hub.federation), keys.load(fed.helper, lambda: "")
    assert set(client.current_hashes(helper_keys)) == {"charter", "roster", "task", "set"}
    hidden = fed.hub.database.rows("SELECT hash FROM parcels WHERE kind IN ('update', 'global', 'receipt')")
    assert len(hidden) > 4
    for row in hidden:
        assert client.read(helper_keys, f"/v1/parcels/{row['hash']}").code == "E_NOT_HERE"


def test_the_set_is_for_the_helper_alone(fed: SecureFederation, port: int) -> None:
    fed.ask()
    client, site_keys, named = Client(port, fed.hub.federation), fed.clinics[0].keys, fed.hub.named_set()
    assert "set" not in client.current_hashes(site_keys)
    assert client.read(site_keys, f"/v1/parcels/{named}").code == "E_NOT_HERE"
    assert client.read(keys.generate(), f"/v1/parcels/{named}").code == "E_SIGNER_UNKNOWN"
    assert client.ask("GET", f"/v1/parcels/{named}").code == "E_UNSIGNED"


def test_a_request_of_the_helper_cannot_be_sent_again(fed: SecureFederation, port: int) -> None:
    fed.ask()
    client, helper_keys = Client(port, fed.hub.federation), keys.load(fed.helper, lambda: "")
    signed = client.signature(helper_keys, client.nonce(), "GET", "/v1/current")
    assert client.ask("GET", "/v1/current", headers=signed).status == 200
    assert client.ask("GET", "/v1/current", headers=signed).code == "E_NONCE"


def test_a_sum_of_an_earlier_round_answers_no_later_one(fed: SecureFederation, port: int) -> None:
    fed.ask()
    answer(fed, port)
    old = sum_here(fed)
    fed.aggregate()
    fed.ask()
    assert Client(port, fed.hub.federation).send(old).status == 200  # it has its receipt, and changes nothing
    assert not at_the_hub(fed, 2)
    assert fed.aggregate()["waiting"] == "helper"


@pytest.mark.parametrize(
    ("signer", "changes", "code"),
    [
        ("stranger", {}, "E_ROLE"),
        ("coordinator", {}, "E_ROLE"),
        ("helper", {"about": "0" * 64}, "E_ROUND_CLOSED"),
        ("helper", {"federation": "fh-" + "0" * 32}, "E_FEDERATION"),
    ],
)
def test_a_sum_that_the_helper_did_not_give_to_this_set_is_refused_at_its_first_bytes(
    fed: SecureFederation, port: int, signer: str, changes: dict[str, str], code: str
) -> None:
    fed.ask()
    fed.answer()
    with parcel.open(sum_here(fed), parcel.any_signer) as opened:
        context, body = {**opened.statement.context, **changes}, opened.body.read()
    by = {"stranger": keys.generate(), "coordinator": fed.coordinator_keys, "helper": keys.load(fed.helper, lambda: "")}
    forged = fed.folder / "forged"
    parcel.seal(forged, context, body, by[signer].sign)
    assert Client(port, fed.hub.federation).begin(forged).code == code
    assert not at_the_hub(fed)


def test_a_sum_for_a_round_that_was_called_off_is_refused(fed: SecureFederation, port: int) -> None:
    fed.ask()
    fed.answer()
    path = sum_here(fed)
    cancel(fed)
    assert Client(port, fed.hub.federation).begin(path).code == "E_ROUND_CLOSED"
    with pytest.raises(RefusedThereError, match="E_ROUND_CLOSED"):
        HttpCarrier(f"http://127.0.0.1:{port}", fed.hub.federation, keys.generate, fed.folder / "in").put(path)


def test_a_flood_of_sums_by_the_helpers_key_leaves_room_for_sites(fed: SecureFederation) -> None:
    """Its uploads are counted as those of one sender, and not among requests to join."""
    fed.ask()
    fed.answer()
    with parcel.open(sum_here(fed), parcel.any_signer) as opened:
        context, body = opened.statement.context, opened.body.read()
    helper_keys = keys.load(fed.helper, lambda: "")
    with http_front.running(fed.hub.home, Limits(open_uploads=2, open_requests=1)) as port:
        client, codes = Client(port, fed.hub.federation), []
        for second in range(4):
            path = fed.folder / f"sum{second}"
            parcel.seal(path, {**context, "created": f"2030-01-01T00:00:0{second}Z"}, body, helper_keys.sign)
            begun = client.begin(path)
            codes.append(begun.code if begun.status >= 400 else begun.status)
        assert codes == [201, 201, "E_QUOTA", "E_QUOTA"]
        stored = sum(file.stat().st_size for file in (fed.hub.home / "incoming").iterdir())
    assert stored <= 2 * path.stat().st_size


# --- a coordinator that asks for more --------------------------------------------------------------------------------
def test_a_set_of_one_of_two_or_of_none_is_refused(fed: SecureFederation, port: int) -> None:
    fed.ask()
    seeds = fed.seeds()
    for chosen in (seeds[:1], seeds[:2], [], [seeds[0]] * 3):
        name(fed, chosen)
        assert refusal(fed, port) == "E_SET"


def test_a_second_set_of_a_round_is_refused_also_by_a_helper_that_was_set_back(
    fed: SecureFederation, port: int, tmp_path: Path
) -> None:
    fed.ask()
    backup = shutil.copytree(fed.helper, tmp_path / "backup")
    answer(fed, port)
    first = at_the_hub(fed)
    name(fed, fed.seeds()[1:])
    for restored in (False, True):
        if restored:
            shutil.rmtree(fed.helper)
            shutil.copytree(backup, fed.helper)
        with pytest.raises(FedhelpError) as caught:
            answer(fed, port)
        assert caught.value.code == "E_SET_ANSWERED"
        assert at_the_hub(fed) == first


def test_a_roster_that_the_coordinator_did_not_sign_is_not_followed(fed: SecureFederation) -> None:
    """A front that was broken into lists a newer roster, with a site of its own, and a set with this site's seed."""
    fed.ask()
    forger, seeds = keys.generate(), fed.seeds()
    path = fed.hub.database.parcel_path(fed.hub.newest_parcel("roster")["hash"])
    with parcel.open(path, parcel.any_signer) as opened:
        payload, context = opened.json(), dict(opened.statement.context)
    payload["sites"][0]["sign"] = forger.public.sign
    roster, seed = fed.stick / FROM_COORDINATOR / "roster.fhx", fed.folder / "seed-of-the-forger"
    parcel.seal(roster, {**context, "version": context["version"] + 1}, to_json(payload), forger.sign)
    seed_context = dict(parcels.read_seed(seeds[0]).statement.context)
    parcel.seal(seed, seed_context, bytes(32), forger.sign, seed_context["recipients"])
    fed.restated_set([seed.read_bytes(), *seeds[1:]])
    with hostile_front.running(front(*(fed.stick / FROM_COORDINATOR).glob("*.fhx"))) as hostile:
        assert refusal(fed, hostile.port) == "E_SIGNER_UNKNOWN"
    assert not [request for request in hostile.requests if request.method == "POST"]


# --- a front that floods ---------------------------------------------------------------------------------------------
def front(*files: Path, listed: Sequence[dict[str, Any]] = ()) -> Callable[[ReceivedRequest], bytes]:
    """A front that lists these files for everybody, and whatever else."""
    by_path, entries = {}, list(listed)
    for file in files:
        inspected = parcel.inspect(file, parcel.any_signer).statement
        by_path[f"/v1/parcels/{inspected.hash}"] = file.read_bytes()
        entries.append({"hash": inspected.hash, "kind": inspected.kind, "number": 1, "size": file.stat().st_size})

    def reply(request: ReceivedRequest) -> bytes:
        if request.path == "/v1/current":
            return response(json.dumps({"parcels": entries}).encode(), "200 OK", NONCE)
        return response(by_path[request.path], "200 OK", NONCE)

    return reply


def entry(number: int, kind: str, size: int) -> dict[str, Any]:
    return {"hash": f"{number:064x}", "kind": kind, "number": number, "size": size}


def test_models_and_packs_that_a_front_lists_are_not_fetched(fed: SecureFederation) -> None:
    listed = [entry(number, kind, 200 << 20) for number in range(50) for kind in ("global", "knowledge")]
    with hostile_front.running(front(listed=listed)) as hostile, pytest.raises(FedhelpError) as caught:
        answer(fed, hostile.port)
    assert caught.value.code == "E_NOT_YET"  # there is no charter
    assert {request.path for request in hostile.requests} == {"/v1/current"}


@pytest.mark.parametrize("kind", ["set", "roster", "sum", "seed"])
def test_more_than_a_helper_can_need_is_refused_before_a_byte_is_fetched(fed: SecureFederation, kind: str) -> None:
    listed = partial(entry, kind=kind, size=1 << 20)
    with hostile_front.running(front(listed=[*map(listed, range(1, 40))])) as hostile, pytest.raises(NotAFrontError):
        answer(fed, hostile.port)


# --- the commands ----------------------------------------------------------------------------------------------------
def helper(fed: SecureFederation, *words: str | Path) -> Completed:
    return command.run_in_process(
        *words, home=fed.folder, program=command.HELPER, env={"FEDHELP_HOME": str(fed.helper)}
    )


def test_a_helper_answers_over_the_network_by_its_commands(fed: SecureFederation, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    fed.ask()
    assert "the sum of 4 masks is at the coordinator" in succeeds(helper(fed, "sum", "--url", url)).stdout
    assert command.json_output(helper(fed, "sum", "--url", url, "--json"))["state"] == "again"
    fed.aggregate()
    assert "no set waits" in succeeds(helper(fed, "sum", "--url", url)).stdout
    fails_with(helper(fed, "sum"), "E_USAGE", "--help")
    fails_with(helper(fed, "sum", fed.stick, "--url", url), "E_USAGE", "--help")
    fails_with(helper(fed, "run"), "E_USAGE", "--help")


def between_two_looks(monkeypatch: pytest.MonkeyPatch, wait: Callable[[object], None]) -> None:
    """Something happens while a helper waits, in place of the waiting."""
    run_repeatedly = unattended.run_repeatedly
    monkeypatch.setattr(unattended, "run_repeatedly", lambda look, every, say: run_repeatedly(look, every, say, wait))


def cancel(fed: SecureFederation) -> None:
    lifecycle.cancel_round(fed.hub, fed.hub.newest_round())


def ask_in_the_last_round(fed: SecureFederation) -> None:
    """The rounds before it come to nothing."""
    while (task := fed.open()).round < fed.plan.rounds:
        cancel(fed)
    fed.ask(task)


@pytest.mark.parametrize("way", ["--via", "--url"])
def test_a_helper_that_runs_unattended_goes_on_until_the_last_round(
    fed: SecureFederation, port: int, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """It begins before the coordinator has left anything, says which set it refuses, and answers the next one."""
    visits = iter(range(100))

    def wait(_seconds: object) -> None:
        visit = next(visits)
        if visit == 1:
            fed.ask()
            name(fed, fed.seeds()[:2])
            fed.exchange()
        elif visit == 3:
            cancel(fed)
            ask_in_the_last_round(fed)

    between_two_looks(monkeypatch, wait)
    done = succeeds(helper(fed, "run", way, fed.stick if way == "--via" else f"http://127.0.0.1:{port}"))
    assert done.stdout == "finished: all rounds are answered\n"
    assert done.stderr.count("not answered: E_SET") == 1
    assert "round 4: answered" in done.stderr
    assert [each.round for each in homes.answered_sets(fed.helper)] == [4]
    fed.exchange()
    assert fed.aggregate()["published"]


def test_an_answer_that_comes_too_late_does_not_end_a_helper_that_runs(
    fed: SecureFederation, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed.ask()
    check_new = homes.check_new

    def check_while_the_round_is_cancelled(*how: Any) -> None:
        check_new(*how)
        cancel(fed)

    monkeypatch.setattr(homes, "check_new", check_while_the_round_is_cancelled)

    def wait(_seconds: object) -> None:
        monkeypatch.setattr(homes, "check_new", check_new)
        ask_in_the_last_round(fed)

    between_two_looks(monkeypatch, wait)
    done = succeeds(helper(fed, "run", "--url", f"http://127.0.0.1:{port}"))
    assert "not answered: E_REFUSED: E_ROUND_CLOSED" in done.stderr
    assert fed.aggregate()["published"]

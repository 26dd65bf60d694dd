"""A front that is killed, stopped, full or blocked; the secrets in its memory; and many sites at once."""

from __future__ import annotations

import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedhelp_edge.parcel import bech32, parcel
from fedhelp_edge.trust.roster import Site
from server_ref.hub import database, members
from server_ref.intake import judge, partial_uploads
from tests.attacks.test_f_http import patch
from tests.command import COORDINATOR, error_code, run
from tests.federation import Federation, SimulatedClinic
from tests.http_front import BYTES, TUS, Client, running, serving

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc shows a process's memory")


@pytest.fixture
def update_path(three: Federation) -> Path:
    task = three.open()
    return three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))


def test_g01_acknowledged_bytes_survive_a_kill_and_the_upload_continues(three: Federation, update_path: Path) -> None:
    data = update_path.read_bytes()
    with serving(three.hub.home) as process:
        client = Client(process.port, three.hub.federation)
        offset = client.begin(update_path).offset
        client.append(update_path.stem, offset, data[offset : offset + 500_000])
        process.end(signal.SIGKILL)
    with serving(three.hub.home) as process:
        client = Client(process.port, three.hub.federation)
        assert client.offset_of(update_path.stem).offset == offset + 500_000
        assert client.begin(update_path).status == 200
        assert client.append(update_path.stem, offset + 500_000, data[offset + 500_000 :]).status == 204
    assert three.hub.database.parcel_path(update_path.stem).read_bytes() == data


@pytest.mark.parametrize("extra", [b"", b"beyond its end"])
def test_g01_a_complete_upload_before_a_kill_is_received_at_the_next_start(
    three: Federation, update_path: Path, extra: bytes
) -> None:
    data = update_path.read_bytes()
    original = parcel.inspect(update_path, parcel.any_signer).statement
    partial_uploads.begin(three.hub.home, original, len(data), data + extra, three.hub.now)
    with running(three.hub.home) as port:
        answer = Client(port, three.hub.federation).begin(update_path)
    if extra:  # bytes beyond the end, as a crash may leave them, are discarded
        assert (answer.status, three.update_states()) == (201, {})
    else:
        assert answer.headers["fedhelp-receipt"]
        assert three.update_states() == {"site-001/1": "received"}


def test_other_files_in_the_upload_folder_are_removed_at_the_start(three: Federation) -> None:
    folder = three.hub.home / partial_uploads.FOLDER
    folder.mkdir()
    for name in ("x", "x.y", f"{'a' * 64}.12"):
        (folder / name).write_bytes(b"junk")
    with running(three.hub.home) as port:
        assert Client(port, three.hub.federation).ask("GET", "/healthz").status == 200
    assert {path.name for path in folder.iterdir()} <= {"x"}


def test_g18_a_stopped_front_finishes_the_upload_in_progress(three: Federation, update_path: Path) -> None:
    data = update_path.read_bytes()
    with serving(three.hub.home) as process:
        client = Client(process.port, three.hub.federation)
        offset = client.begin(update_path).offset
        with patch(process.port, update_path, offset, len(data) - offset) as connection:
            connection.sendall(data[offset : offset + 1000])
            process.popen.send_signal(signal.SIGTERM)
            connection.sendall(data[offset + 1000 :])
            assert connection.recv(1000).startswith(b"HTTP/1.1 204")
        assert process.popen.wait() == 0
    assert three.update_states() == {"site-001/1": "received"}


def test_g09_a_second_front_is_refused(three: Federation) -> None:
    with serving(three.hub.home):
        done = run("serve", "--home", three.hub.home, "--port", "0", home=three.folder, program=COORDINATOR)
        assert error_code(done) == "E_BUSY"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (("--tls-cert", "x"), "E_USAGE"),
        (("--tls-cert", "x", "--tls-key", "x"), "E_LISTEN"),
        (("--host", "192.0.2.1"), "E_LISTEN"),
        (("--home", "nowhere"), "E_HUB"),
    ],
)
def test_a_front_that_cannot_start_says_why(three: Federation, more: tuple[str, ...], code: str) -> None:
    done = run("serve", "--home", three.hub.home, "--port", "0", *more, home=three.folder, program=COORDINATOR)
    assert error_code(done) == code


def test_without_its_extra_the_front_names_the_package_to_install(three: Federation) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from server_ref.cli import main; main()"
    done = run("serve", "--home", three.hub.home, home=three.folder, program=(sys.executable, "-c", code))
    assert error_code(done) == "E_EXTRA"
    assert "fedhelp-edge[server]" in done.stderr


def test_g05_an_upload_during_a_command_can_be_completed_later(
    three: Federation, update_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.2)
    with running(three.hub.home) as port:
        client = Client(port, three.hub.federation)
        with three.hub.database.transaction():
            answer = client.send(update_path)
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "E_BUSY", "5")
            assert client.offset_of(update_path.stem).offset == update_path.stat().st_size
            assert client.current_hashes(three.clinics[1].keys)["task"]
        assert client.begin(update_path).headers["fedhelp-receipt"]
    assert three.update_states() == {"site-001/1": "received"}


def test_g02_on_a_full_disk_an_upload_keeps_its_offset_and_continues_later(
    three: Federation, update_path: Path, tiny_disk: Callable[[int], Path]
) -> None:
    disk = tiny_disk(4096)
    (three.hub.home / partial_uploads.FOLDER).symlink_to(disk)
    ballast = disk / "ballast"
    with running(three.hub.home) as port:
        client = Client(port, three.hub.federation)
        offset = client.begin(update_path).offset
        ballast.write_bytes(bytes((4096 - 200) << 10))  # less than one write of the front
        answer = client.append(update_path.stem, offset, update_path.read_bytes()[offset:])
        assert (answer.status, answer.code) == (507, "E_STORAGE")
        assert client.offset_of(update_path.stem).offset == offset
        ballast.unlink()
        assert client.ask("DELETE", f"/v1/uploads/{update_path.stem}", headers=TUS).status == 204
    assert list(disk.iterdir()) == []


# --- its memory -----------------------------------------------------------------------------------------------------
def _regions(pid: int) -> Iterator[bytes]:
    """The readable memory regions of a process."""
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            first, last = (int(end, 16) for end in span.split("-"))
            if "r" in rights and "[v" not in line:
                try:
                    memory.seek(first)
                    yield memory.read(last - first)
                except OSError:
                    continue


@linux
def test_the_fronts_memory_holds_no_key_of_the_coordinator(three: Federation, update_path: Path) -> None:
    task = three.hub.tasks()[1]
    coordinator_keys, root = three.coordinator_keys, three.hub.home / "root" / "keys.txt"
    identities = [coordinator_keys.identity, judge.round_key(three.hub, three.coordinator_keys, task.round)]
    identities.append(next(line for line in root.read_text().splitlines() if line.startswith("AGE-SECRET-KEY-")))
    forbidden = [identity.encode() for identity in identities]
    forbidden += [bytes(bech32.decode("age-secret-key-", identity.lower())) for identity in identities]
    forbidden.append(coordinator_keys.sign.private_bytes_raw())
    with serving(three.hub.home) as process:
        client = Client(process.port, three.hub.federation)
        assert client.send(update_path).headers["fedhelp-receipt"]
        client.current_hashes(three.clinics[0].keys)
        client.ask("GET", process.dashboard.split(str(process.port))[1])
        leaked = {needle for region in _regions(process.popen.pid) for needle in forbidden if needle in region}
        known_text = process.dashboard.rsplit("/", 1)[1].encode()
        assert any(known_text in region for region in _regions(process.popen.pid)), "the search finds a known text"
        folder = Path(f"/proc/{process.popen.pid}")
        opened = " ".join(str(link.readlink()) for link in (folder / "fd").iterdir() if link.is_symlink())
        arguments = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
    assert leaked == set()
    assert not any(f"/{name}/" in opened for name in ("coordinator", "root", "round-keys", "shares"))
    assert b"AGE-SECRET-KEY" not in arguments


# --- many ----------------------------------------------------------------------------------------------------------
@linux
@pytest.mark.proof
def test_g15_updates_of_many_simultaneous_sites_are_each_received_exactly_once(
    tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    """Each site sends an update of 1.1 MB, amid junk and slow connections; memory must not grow with them."""
    fed = Federation(tmp_path, clinics=1)
    first = fed.hub.roster.sites[0]
    fed.clinics = [
        SimulatedClinic(fed.hub.federation, tmp_path / "clinics" / str(number)) for number in range(effort(50, 500))
    ]
    for number, clinic in enumerate(fed.clinics, 1):
        clinic.id = f"site-{number:03}"
    sites = [
        Site(site.id, site.id, first.tier, site.keys.public.sign, site.keys.public.recipient) for site in fed.clinics
    ]
    with fed.hub.database.transaction():
        members.write_roster(fed.hub, fed.coordinator_keys, sites)
    task = fed.open()
    arrays = fed.base(task)
    updates = [clinic.give(task, arrays) for clinic in fed.clinics]
    assert all(update_path.stat().st_size > 1_050_000 for update_path in updates)
    with serving(fed.hub.home) as process, ThreadPoolExecutor(8) as pool, ExitStack() as lines:
        client, durations = Client(process.port, fed.hub.federation), []
        for _ in range(100):
            lines.enter_context(socket.create_connection(("127.0.0.1", process.port))).sendall(b"GET / HTTP/1.1\r\nX: ")

        def send(update_path: Path) -> str:
            client.ask("POST", "/v1/uploads", bytes(100_000), {**BYTES, "Upload-Length": "100000"})
            begun = time.monotonic()
            receipt = client.send(update_path).headers["fedhelp-receipt"]
            durations.append(time.monotonic() - begun)
            return receipt

        begun = time.monotonic()
        receipts = list(pool.map(send, updates[:10]))
        before = process.memory("VmHWM")
        receipts += list(pool.map(send, updates[10:]))
        seconds, peak = time.monotonic() - begun, process.memory("VmHWM")
    half, most = statistics.median(durations), statistics.quantiles(durations, n=20)[-1]
    print(
        f"\n{len(updates)} updates of 1.1 MB in {seconds:.1f} s, eight at a time: median {half:.2f} s, p95 {most:.2f} s"
    )
    print(f"memory of the front: at most {before} KiB after ten updates, {peak} KiB after all")
    assert len(set(receipts)) == len(updates)
    assert fed.update_states() == {f"{clinic.id}/1": "received" for clinic in fed.clinics}
    assert len(fed.hub.database.rows("SELECT 1 FROM log WHERE type = 'received' AND detail LIKE '%update%'")) == len(
        updates
    )
    assert peak - before < 24 << 10, f"{peak - before} KiB more than after ten"

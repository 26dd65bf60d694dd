"""A DICOM node between real peers on loopback: images in, reports and heat-maps out, whatever others send or do."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")

import pydicom
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedhelp_edge.cli import pacs as command
from fedhelp_edge.infer import dicom_results
from fedhelp_edge.infer.bundle import AnyBundle, Bundle
from fedhelp_edge.infer.event_log import EventLog
from fedhelp_edge.pacs import connection, receive
from fedhelp_edge.pacs.node import Node, Settings
from fedhelp_edge.pacs.queue import Queue
from fedhelp_edge.pacs.send import Archive
from tests import archive, bundles, studies
from tests.archive import AET, SmallArchive, free_port, send, wait_until
from tests.bundles import run_command
from tests.figures import ask, parse
from tests.unit.infer.test_dicom_results import group


@contextmanager
def node(bundle: AnyBundle, place: Path | Queue, archive_port: int, **options: Any) -> Iterator[int]:
    """A node in this process, which must end at once; yields its port. `reports` gets what it tells its operator."""
    reports = options.pop("reports", [])
    settings = Settings(
        "FEDHELP", ("127.0.0.1", 0), Archive(AET, "127.0.0.1", archive_port, options.pop("archive_tls", None)),
        options.pop("allowed", [AET]), **{"longest_wait": 0.1, **options},
    )  # fmt: skip
    running, started, ports = (
        Node(bundle, Queue(place, bundle.sha256) if isinstance(place, Path) else place, settings, reports.append),
        threading.Event(),
        [],
    )

    def run() -> None:
        def hear(address: tuple[str, int]) -> None:
            ports.append(address[1])
            started.set()

        running.run(hear)

    thread = archive.in_thread(run)
    try:
        assert started.wait(30)
        yield ports[0]
    finally:
        running.stop()
        thread.join(50)  # less than the silence that it allows
        assert not thread.is_alive()


def stranger(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


@pytest.fixture
def small() -> SmallArchive:
    return SmallArchive()


def test_an_image_that_is_sent_comes_back_as_a_report_and_a_heat_map(
    opened: Bundle, small: SmallArchive, tmp_path: Path
) -> None:
    paths = studies.write(tmp_path / "in", 6)
    with small.listening() as port, node(opened, tmp_path / "queue", port) as own_port:
        assert send(own_port, paths) == [0] * 6
        wait_until(lambda: len(small.reports) == 6)
        wait_until(lambda: not any((tmp_path / "queue" / "results").iterdir()))
    assert {report.StudyInstanceUID for report in small.reports} == {f"1.2.3.{number}" for number in range(6)}
    answered = [report for report in small.reports if group(report).finding_type.value != "not-classified"]
    assert answered
    assert len(small.of_kind("Secondary Capture")) >= len(answered)


def test_reports_alone_are_sent_where_no_heat_map_is_wanted(
    opened: Bundle, small: SmallArchive, tmp_path: Path
) -> None:
    with small.listening() as port, node(opened, tmp_path / "queue", port, heatmap=False) as own_port:
        send(own_port, studies.write(tmp_path / "in", 6))
        wait_until(lambda: len(small.stored) == 6)
    assert len(small.reports) == 6


def test_an_image_that_is_sent_again_is_confirmed_and_not_answered_again(
    opened: Bundle, small: SmallArchive, tmp_path: Path
) -> None:
    paths = studies.write(tmp_path / "in", 2)
    with small.listening() as port, node(opened, tmp_path / "queue", port, heatmap=False) as own_port:
        assert send(own_port, [*paths, *paths]) == [0] * 4
        wait_until(lambda: small.calls == 2)
        assert send(own_port, paths) == [0] * 2
        send(own_port, studies.write(tmp_path / "last", 1, 9))
        wait_until(lambda: len(small.reports) == 3)
    assert small.calls == 3


def test_its_own_results_are_taken_and_not_answered(opened: Bundle, small: SmallArchive, tmp_path: Path) -> None:
    with small.listening() as port, node(opened, tmp_path / "queue", port) as own_port:
        send(own_port, studies.write(tmp_path / "in", 12))
        wait_until(lambda: len(small.reports) == 12)
        heatmaps = small.of_kind("Secondary Capture")
        for number, result in enumerate([*heatmaps, *small.reports]):
            result.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
        assert send(own_port, sorted(tmp_path.glob("*.dcm"))) == [0] * (len(heatmaps) + 12)
        report = small.reports[0]
        report.Manufacturer = "another"
        report.save_as(tmp_path / "in" / "report.dcm", enforce_file_format=True)
        assert send(own_port, [tmp_path / "in" / "report.dcm"]) == [0xC000]
        send(own_port, studies.write(tmp_path / "last", 1, 20))
        wait_until(lambda: len(small.reports) == 13)
    assert heatmaps


def test_another_program_reaches_it(opened: Bundle, small: SmallArchive, tmp_path: Path) -> None:
    if not shutil.which("storescu"):
        pytest.skip("storescu is not installed (Debian: dcmtk)")
    paths = studies.write(tmp_path / "in", 2)
    with small.listening() as port, node(opened, tmp_path / "queue", port) as own_port:
        called = ["-aet", AET, "-aec", "FEDHELP", "127.0.0.1", str(own_port)]
        subprocess.run(["echoscu", *called], check=True)
        subprocess.run(["storescu", *called, *map(str, paths)], check=True)
        wait_until(lambda: len(small.reports) == 2)


def test_only_known_titles_may_call(opened: Bundle, small: SmallArchive, tmp_path: Path) -> None:
    paths = studies.write(tmp_path / "in", 1)
    with small.listening() as port, node(opened, tmp_path / "queue", port, allowed=["CT1", AET]) as own_port:
        assert send(own_port, paths, calling="STRANGER") == []
        assert send(own_port, paths, called="OTHER") == []
        assert send(own_port, paths, calling="CT1") == [0]


def test_an_image_that_cannot_be_used_gets_a_report_that_says_why(
    opened: Bundle, small: SmallArchive, tmp_path: Path
) -> None:
    (path,) = studies.write(tmp_path / "in", 1, NumberOfFrames=2, PixelData=bundles.noise(2, 48, 64, 3).tobytes())
    with small.listening() as port, node(opened, tmp_path / "queue", port) as own_port:
        assert send(own_port, [path]) == [0]
        wait_until(lambda: len(small.reports) == 1)
    assert group(small.reports[0]).finding_type.value == "not-classified"
    assert "has 2 frames" in small.reports[0].to_json()


def test_what_names_no_study_is_refused_and_kept_nowhere(opened: Bundle, small: SmallArchive, tmp_path: Path) -> None:
    (path,) = studies.write(tmp_path / "in", 1, StudyInstanceUID=None)
    with small.listening() as port, node(opened, tmp_path / "queue", port) as own_port:
        assert send(own_port, [path]) == [0xC000]
        assert not any((tmp_path / "queue" / "waiting").iterdir())


def test_garbage_silence_and_endless_messages_keep_nobody_out(
    opened: Bundle, small: SmallArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive, "MAX_SIZE", 50_000)
    with small.listening() as port, node(opened, tmp_path / "queue", port) as own_port:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\1\0\xff\xff\xff\xff" + bytes(1 << 16), bytes(4096), b"\4\0\0\0"):
            with stranger(own_port) as caller:
                caller.sendall(data)
        silent = [stranger(own_port) for _ in range(3)]
        (large,) = studies.write(tmp_path / "large", 1, Rows=480, Columns=640, PixelData=bytes(480 * 640 * 3))
        assert send(own_port, [large]) == [-1]
        assert send(own_port, studies.write(tmp_path / "in", 1, 7)) == [0]
        wait_until(lambda: len(small.reports) == 1)
        for caller in silent:
            caller.close()


def test_a_caller_that_is_silent_is_cut_off(opened: Bundle, small: SmallArchive, tmp_path: Path) -> None:
    with small.listening() as port, node(opened, tmp_path / "queue", port, silence=0.5) as own_port:
        for beginning in (b"", b"\1\0\0\0", b"\1\0\0\0\0\x44\0\1"):
            with stranger(own_port) as caller:
                caller.sendall(beginning)
                assert caller.recv(1) == b""


def test_callers_that_hang_up_at_once_keep_nobody_out(opened: Bundle, small: SmallArchive, tmp_path: Path) -> None:
    with small.listening() as port, node(opened, tmp_path / "queue", port) as own_port:
        for _ in range(2 * receive.MAX_CONNECTIONS):
            stranger(own_port).close()
        wait_until(lambda: send(own_port, studies.write(tmp_path / "in", 1)) == [0], 20)


def test_silent_callers_and_a_silent_archive_do_not_delay_the_nodes_end(opened: Bundle, tmp_path: Path) -> None:
    entity = connection.Entity(AET, 30)
    entity.add_requested_context("1.2.840.10008.1.1")
    with socket.create_server(("127.0.0.1", 0)) as silent_archive:
        port = silent_archive.getsockname()[1]
        with node(opened, tmp_path / "queue", port) as own_port:  # ends before its silence, a minute, is over
            assert send(own_port, studies.write(tmp_path / "in", 1)) == [0]
            call, _ = silent_archive.accept()
            silent, late = stranger(own_port), stranger(own_port)
            late.sendall(b"\1\0\0\0\0\x44\0\1")
            idle = entity.associate("127.0.0.1", own_port, ae_title="FEDHELP")
            assert idle.is_established
        for open_socket in (call, silent, late):
            open_socket.close()
        idle.abort()


def test_an_image_that_a_library_fails_on_is_put_aside_and_the_others_are_answered(
    opened: Bundle, small: SmallArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = dicom_results.report

    def fail_on_one(bundle: Bundle, source: Any, row: Any) -> Any:
        if source.StudyInstanceUID == "1.2.3.1":
            raise KeyError("of a library")
        return write(bundle, source, row)

    monkeypatch.setattr(dicom_results, "report", fail_on_one)
    reports: list[str] = []
    with small.listening() as port, node(opened, tmp_path / "queue", port, reports=reports) as own_port:
        send(own_port, studies.write(tmp_path / "in", 3))
        wait_until(lambda: len(small.reports) == 2)
        wait_until(lambda: len(reports) == 1)
    assert reports == ["error: E_INTERNAL: KeyError on one image, which is put aside in 'failed'"]
    assert len(list((tmp_path / "queue" / "failed").iterdir())) == 1


def test_a_damaged_result_does_not_keep_the_others_back(opened: Bundle, small: SmallArchive, tmp_path: Path) -> None:
    damaged = tmp_path / "queue" / "results" / f"{'0' * 32}.{opened.sha256[:16]}"
    damaged.mkdir(parents=True)
    (damaged / "1.dcm").write_bytes(b"no DICOM")
    os.utime(damaged, (0, 0))  # the oldest
    reports: list[str] = []
    with small.listening() as port, node(opened, tmp_path / "queue", port, reports=reports) as own_port:
        send(own_port, studies.write(tmp_path / "in", 2))
        wait_until(lambda: len(small.reports) == 2)
    assert "waiting: E_INTERNAL: InvalidDicomError in this program; the node retries by itself" in reports
    assert (damaged / "1.dcm").exists()


def test_results_wait_until_the_archive_takes_them(opened: Bundle, small: SmallArchive, tmp_path: Path) -> None:
    port = free_port()
    with node(opened, tmp_path / "queue", port, heatmap=False) as own_port:
        assert send(own_port, studies.write(tmp_path / "in", 2)) == [0, 0]
        wait_until(lambda: len(list((tmp_path / "queue" / "results").iterdir())) == 2)
        small.status = 0xA700  # its disk is full
        with small.listening(port):
            wait_until(lambda: small.calls > 0)
            small.status = 0x0000
            wait_until(lambda: len(small.reports) == 2)


def test_a_node_killed_again_and_again_loses_nothing_and_answers_nothing_twice(
    model: Path, home: Path, small: SmallArchive, tmp_path: Path
) -> None:
    paths = studies.write(tmp_path / "in", 24)
    own_port = free_port()
    with small.listening() as port:
        words = (
            model, "--listen", str(own_port), "--send-to", f"{AET}@127.0.0.1:{port}", "--home", home,
            "--queue", tmp_path / "queue", "--sr", "--threads", "1",
        )  # fmt: skip
        for kills, part in enumerate((paths[:12], paths[12:])):
            (tmp_path / "log").write_text("")
            with archive.running(words, tmp_path / "log") as process:
                assert set(send(own_port, part)) == {0}
                wait_until(lambda seen=8 * kills: len(small.reports) > seen)  # type: ignore[misc]
                process.send_signal(signal.SIGKILL)
        (tmp_path / "log").write_text("")
        with archive.running(words, tmp_path / "log"):
            assert set(send(own_port, paths)) == {0}
            wait_until(lambda: len(small.reports) == 24)
            wait_until(lambda: not any((tmp_path / "queue" / "results").iterdir()))
            wait_until(lambda: not any((tmp_path / "queue" / "waiting").iterdir()))
    assert len({report.StudyInstanceUID for report in small.reports}) == 24
    assert small.calls <= 26  # a result whose confirmation was lost is sent again, with the same UID


def certificates(folder: Path) -> None:
    """An authority, and a certificate of it for 127.0.0.1."""
    now = datetime.datetime.now(datetime.timezone.utc)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hospital")])
    for name, subject, public, is_ca in (
        ("ca", issuer, authority_key, True),
        ("node", x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")]), key, False),
    ):
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        )  # fmt: skip
        data = builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        (folder / f"{name}.pem").write_bytes(data)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "node.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))


def test_with_tls_only_peers_with_a_certificate_are_heard_and_told(
    opened: Bundle, small: SmallArchive, tmp_path: Path
) -> None:
    certificates(tmp_path)
    own = (tmp_path / "node.pem", tmp_path / "node.key", tmp_path / "ca.pem")
    callers, towards = command._tls(True, *own), command._tls(False, *own)
    archive_tls = command._tls(True, *own)
    paths = studies.write(tmp_path / "in", 1)
    with (
        small.listening(tls=archive_tls) as port,
        node(opened, tmp_path / "queue", port, tls=callers, archive_tls=towards) as own_port,
    ):
        silent = stranger(own_port)  # who does not negotiate keeps nobody out, and does not delay the end
        unknown = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        assert send(own_port, paths) == []
        assert send(own_port, paths, tls=(unknown, "127.0.0.1")) == []
        assert send(own_port, paths, tls=(command._tls(False, *own), "127.0.0.1")) == [0]
        wait_until(lambda: len(small.reports) == 1)
    silent.close()


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--listen", "x", "--send-to", "A@h:1"), "is not [HOST:]PORT"),
        (("--listen", "1", "--send-to", "A@h"), "is not AET@HOST:PORT"),
        (("--listen", "1", "--send-to", "A@h:99999"), "is not AET@HOST:PORT"),
        (("--listen", "1", "--send-to", "A@h:1", "--aet", "a name that is long"), "is no AE title"),
        (("--listen", "1", "--send-to", "A@h:1", "--allow", "back\\slash"), "is no AE title"),
        (("--listen", "1", "--send-to", "A@h:1", "--tls-cert", "c.pem"), "belong together"),
    ],
)
def test_wrong_addresses_and_titles_are_refused_at_once(
    words: tuple[str, ...], cause: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, "pacs", model, *words)
    assert (code, cause in err) == (2, True)


def test_its_figures_follow_an_image_through_the_queue_and_tell_no_finding(
    opened: Bundle, small: SmallArchive, tmp_path: Path
) -> None:
    archive_port, port, log = free_port(), free_port(), tmp_path / "events"
    options = {"heatmap": False, "metrics": ("127.0.0.1", port), "events": EventLog(log, opened)}
    with node(opened, tmp_path / "queue", archive_port, **options) as own_port:

        def figures() -> dict[str, float]:
            return parse(ask(port)[1])

        send(own_port, studies.write(tmp_path / "in", 3))
        wait_until(lambda: figures()["fedhelp_node_queue{answered}"] == 3)
        wait_until(lambda: figures()["fedhelp_node_archive_up"] == 0)
        with small.listening(archive_port):
            wait_until(lambda: figures()["fedhelp_node_sent_total"] == 3)
        text, seen = ask(port)[1], figures()
    assert (seen["fedhelp_node_archive_up"], seen["fedhelp_node_queue{answered}"]) == (1, 0)
    assert sum(value for name, value in seen.items() if name.startswith("fedhelp_node_answers_total")) == 3
    assert seen["fedhelp_node_answer_seconds_total"] > 0
    logged = {json.loads(line)["sop_instance_uid"] for line in log.read_text().splitlines()}
    assert logged == {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "in").iterdir()}
    study = small.reports[0]
    for secret in (study.StudyInstanceUID, str(study.PatientID), AET, *opened.facts.classes):
        assert secret
        assert secret not in text

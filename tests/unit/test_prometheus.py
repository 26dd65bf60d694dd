"""Figures for a monitoring system: Prometheus's own parser reads them, and a caller can hold up nobody for long."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from fedhelp_edge import prometheus
from fedhelp_edge.errors import ListenError, NoHubError, UsageError
from fedhelp_edge.prometheus import Metric
from tests.figures import ask, parse


def nothing() -> Iterable[Metric]:
    return []


def test_prometheus_own_parser_reads_counters_gauges_and_labels() -> None:
    text = prometheus.text(
        [
            Metric("fedhelp_round", "The round.", 3),
            Metric("fedhelp_updates", "Updates.", {"open": 2, "late": 0}, "state"),
            Metric("fedhelp_answers_total", "Answers.", {"answered": 7}, "verdict"),
            Metric("fedhelp_seconds_total", "Seconds.", 0.25),
        ]
    )
    assert parse(text) == {
        "fedhelp_round": 3, "fedhelp_updates{open}": 2, "fedhelp_updates{late}": 0,
        "fedhelp_answers_total{answered}": 7, "fedhelp_seconds_total": 0.25,
    }  # fmt: skip
    assert "# TYPE fedhelp_answers_total counter" in text
    assert "# TYPE fedhelp_round gauge" in text


def test_it_knows_its_own_memory_start_and_disk(tmp_path: Path) -> None:
    figures = parse(prometheus.text(prometheus.machine_metrics(tmp_path)))
    assert 0 < figures["process_start_time_seconds"] <= time.time()
    assert figures["fedhelp_disk_free_bytes"] > 0
    if Path("/proc/self/statm").exists():
        assert 10 << 20 < figures["process_resident_memory_bytes"] < 64 << 30


def test_only_the_figures_are_served_and_each_request_collects_them_anew() -> None:
    numbers = iter(range(9))
    with prometheus.serving(("127.0.0.1", 0), lambda: [Metric("fedhelp_n", "N.", next(numbers))]) as (_, port):
        assert [parse(ask(port)[1])["fedhelp_n"] for _ in range(2)] == [0, 1]
        assert ask(port, "/")[0] == 404
        assert ask(port, "/metrics/../../etc/passwd")[0] == 404
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/metrics", b"x")
        assert connection.getresponse().status == 501
        connection.close()


def test_what_cannot_be_read_now_is_unavailable_and_says_only_its_code() -> None:
    def collect() -> list[Metric]:
        raise NoHubError("hub-of-st-mary holds no hub")

    with prometheus.serving(("127.0.0.1", 0), collect) as (_, port):
        assert ask(port) == (503, "E_HUB\n")


def test_a_silent_caller_is_cut_off_and_the_next_one_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_REQUEST_SECONDS", 0.2)
    with (
        prometheus.serving(("127.0.0.1", 0), nothing) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=30) as silent,
    ):
        silent.sendall(b"GET /metrics HT")
        assert ask(port)[0] == 200
        assert silent.recv(1) == b""


def test_without_an_address_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with prometheus.serving(None, nothing) as address:
        assert address == ("", 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("value", "address"),
    [("9464", ("127.0.0.1", 9464)), ("0.0.0.0:1", ("0.0.0.0", 1)), ("::1:9464", ("::1", 9464)), ("h.x:0", ("h.x", 0))],
)
def test_an_address_without_a_host_is_this_computer(value: str, address: tuple[str, int]) -> None:
    assert prometheus.parse_address("--metrics", value) == address


@pytest.mark.parametrize("value", ["", "x", ":1", "99999", "h:", "1 2", "a@b:1"])
def test_another_address_is_wrong_usage(value: str) -> None:
    with pytest.raises(UsageError, match="--metrics"):
        prometheus.parse_address("--metrics", value)


def test_an_address_that_is_taken_is_an_error_with_a_code() -> None:
    with (
        prometheus.serving(("127.0.0.1", 0), nothing) as taken,
        pytest.raises(ListenError),
        prometheus.serving(taken, nothing),
    ):
        pass

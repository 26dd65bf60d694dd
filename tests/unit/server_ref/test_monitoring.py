"""What a monitoring system sees of a hub: how many, never who."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhelp_edge import prometheus
from fedhelp_edge.errors import NoHubError
from server_ref.admin import monitoring
from server_ref.hub import members
from server_ref.web import dashboard, process
from server_ref.web.limits import Limits
from tests.federation import Federation
from tests.figures import ask, parse
from tests.http_front import Client


def figures(home: Path) -> dict[str, float]:
    return parse(prometheus.text(monitoring.hub_metrics(home)))


def test_it_follows_a_round_from_its_opening_to_its_judged_updates(three: Federation) -> None:
    before = figures(three.hub.home)
    assert (before["fedhelp_hub_round"], before["fedhelp_hub_updates{missing}"]) == (0, 0)
    task = three.open()
    three.send_updates(task, without=("site-003",))
    received = figures(three.hub.home)
    assert received["fedhelp_hub_round_state{open}"] == 1
    assert received["fedhelp_hub_updates{received}"] == 2
    assert received["fedhelp_hub_round_closes_seconds"] == task.closes.timestamp()
    three.judge()
    judged = figures(three.hub.home)
    assert [judged[f"fedhelp_hub_updates{{{state}}}"] for state in ("accepted", "missing", "received")] == [2, 1, 0]
    assert judged["fedhelp_hub_sites{active}"] == 3
    assert judged["fedhelp_hub_log_lines"] > before["fedhelp_hub_log_lines"]


def test_no_name_of_a_site_and_nothing_that_tells_sites_apart_is_in_it(three: Federation) -> None:
    members.invite(three.hub, "Clinic of St Mary", "small", 14)
    three.send_updates(three.open(), without=("site-002", "site-003"))
    text = prometheus.text(monitoring.hub_metrics(three.hub.home))
    assert not re.search(r"Clinic|Mary|site-\d|[0-9a-f]{16}", text)


def test_a_folder_without_a_hub_has_no_figures(tmp_path: Path) -> None:
    with pytest.raises(NoHubError):
        monitoring.hub_metrics(tmp_path)


@pytest.fixture
def front(three: Federation) -> Iterator[tuple[Client, int]]:
    """A front as `serve --metrics` starts it: a client of its address for sites, and the port of its figures."""
    server = process.build_server(three.hub.home, Limits(), dashboard.DashboardAccess())
    with (
        process.open_listener("127.0.0.1", 0) as sock,
        prometheus.serving(("127.0.0.1", 0), server.metrics) as (_, port),
    ):
        own_port = sock.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield Client(own_port, three.hub.federation), port
        finally:
            server.should_exit = True
            thread.join()


def test_a_front_counts_its_responses_and_serves_no_figures_to_sites(front: tuple[Client, int]) -> None:
    client, port = front
    for path in ("/healthz", "/healthz", "/v1/current", "/metrics"):
        client.ask("GET", path)
    seen = parse(ask(port)[1])
    assert seen["fedhelp_front_responses_total{200}"] == 2
    assert seen["fedhelp_front_responses_total{401}"] == 1
    assert seen["fedhelp_front_responses_total{404}"] == 1

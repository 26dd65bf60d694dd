"""Asks for figures as a monitoring system does, and reads them with Prometheus's own parser."""

from __future__ import annotations

import http.client

import pytest


def ask(port: int, path: str = "/metrics") -> tuple[int, str]:
    """The status and the text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def parse(text: str) -> dict[str, float]:
    """Figures by their names; in braces the value of a label."""
    parser = pytest.importorskip("prometheus_client.parser")
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }

"""Faults between a node and an archive: the test follows the hint, and results arrive."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")

from fedhelp_edge.parcel import keys
from tests import archive, bundles, studies
from tests.archive import AET, SmallArchive, free_port, wait_until


def test_results_arrive_once_the_archive_is_started(tmp_path: Path) -> None:
    keys.save(tmp_path / "home", bundles.site().keys, None)
    own_port, port, small, log = free_port(), free_port(), SmallArchive(), tmp_path / "log"
    words = (
        bundles.saved_model(tmp_path), "--listen", str(own_port), "--send-to", f"{AET}@127.0.0.1:{port}",
        "--home", tmp_path / "home", "--threads", "1",
    )  # fmt: skip
    with archive.running(words, log):
        assert archive.send(own_port, studies.write(tmp_path / "in", 1)) == [0]
        wait_until(lambda: "E_PACS" in log.read_text())
        with small.listening(port):
            wait_until(lambda: len(small.reports) == 1)
            wait_until(lambda: "the node continues" in log.read_text())

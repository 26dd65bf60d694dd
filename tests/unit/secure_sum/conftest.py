"""A federation that is made once, and copied for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import kills
from tests.unit.secure_sum.federation import SecureFederation


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFederation]:
    federation = SecureFederation(tmp_path_factory.mktemp("secure") / "federation")
    yield federation
    federation.hub.database.close()


@pytest.fixture
def fed(made: SecureFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecureFederation]:
    kills.open_in_this_process(monkeypatch)
    with made.temporary_copy(tmp_path / "federation") as federation:
        yield federation

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests import archive
from tests.unit.infer.conftest import home as home
from tests.unit.infer.conftest import model as model
from tests.unit.infer.conftest import opened as opened
from tests.unit.infer.conftest import shelf as shelf


@pytest.fixture(autouse=True)
def no_leaked_sockets() -> Iterator[None]:
    """Waits for the threads of a test's associations, and closes what they leave."""
    before = {*threading.enumerate()}
    yield
    for thread in {*threading.enumerate()} - before:
        thread.join(8)
    archive.close_leaked_sockets()

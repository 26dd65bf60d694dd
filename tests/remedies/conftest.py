"""Remedies are about what people do; updates are opened in this process, as in most tests of the coordinator."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _opened_in_this_process(open_in_process: None) -> None:
    """For all tests here."""

"""Results that are recorded to the bit are equal to the bit in every later version, on any machine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.golden import api, exact

RECORDED: dict[str, Any] = api.read("exact")


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    return exact.record()


def test_the_record_and_this_version_have_the_same_parts(now: dict[str, Any]) -> None:
    assert now.keys() == RECORDED.keys()


@pytest.mark.parametrize("part", sorted(RECORDED.keys() - {"plan", "errors"}))
def test_numbers_and_bytes_equal_the_record(part: str, now: dict[str, Any]) -> None:
    assert now[part] == RECORDED[part]


def test_a_recorded_plan_means_the_same(now: dict[str, Any]) -> None:
    """Every key has its default, and mistakes are reported at the same places."""
    for key, value in RECORDED["plan"]["defaults"].items():
        if isinstance(value, dict):
            assert now["plan"]["defaults"][key].items() >= value.items()
        else:
            assert now["plan"]["defaults"][key] == value
    assert now["plan"]["mistakes"] == RECORDED["plan"]["mistakes"]


def test_no_error_code_is_removed_or_changes_its_exit_code(now: dict[str, Any]) -> None:
    assert now["errors"].items() >= RECORDED["errors"].items()

"""What a version computed to the bit, every later one computes to the bit, whatever the machine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.golden import api, exact

RECORDED: dict[str, Any] = api.read("exact")


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    return exact.record()


def test_the_record_and_this_version_speak_of_the_same_things(now: dict[str, Any]) -> None:
    assert now.keys() == RECORDED.keys()


@pytest.mark.parametrize("part", sorted(RECORDED.keys() - {"plan", "errors"}))
def test_numbers_and_bytes_are_those_on_record(part: str, now: dict[str, Any]) -> None:
    assert now[part] == RECORDED[part]


def test_a_plan_of_that_day_means_the_same(now: dict[str, Any]) -> None:
    """Every key is there with its default, and a mistake is found where it was found."""
    for key, value in RECORDED["plan"]["defaults"].items():
        if isinstance(value, dict):
            assert now["plan"]["defaults"][key].items() >= value.items()
        else:
            assert now["plan"]["defaults"][key] == value
    assert now["plan"]["mistakes"] == RECORDED["plan"]["mistakes"]


def test_no_error_code_goes_or_changes_its_exit_code(now: dict[str, Any]) -> None:
    assert now["errors"].items() >= RECORDED["errors"].items()

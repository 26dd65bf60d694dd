"""`inspect` reports a file's kind, whether it is intact, and whether it is trusted here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedhelp_edge.parcel import keys, parcel
from tests.command import error_code, json_output, run_in_process

KEYS = ("kind", "whole", "trusted", "why", "signers", "federation", "round", "sender", "recipients", "size")
SHAPE = {"type": "object", "required": ["schema_version", *KEYS], "properties": {"signers": {"type": "array"}}}


@pytest.fixture
def update_path(tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys) -> Path:
    parcel.seal(tmp_path / "share.fhx", context, b"weights", site.sign, [hub.public.recipient])
    return tmp_path / "share.fhx"


def test_an_intact_parcel_of_a_stranger_is_not_trusted(update_path: Path, tmp_path: Path) -> None:
    process = run_in_process("inspect", update_path, "--json", home=tmp_path)
    facts = json_output(process)
    jsonschema.validate(facts, SHAPE)
    assert process.returncode == 0
    assert (facts["kind"], facts["whole"], facts["trusted"]) == ("update", True, False)
    assert "joined no federation" in facts["why"]
    assert len(facts["signers"][0]["words"].split()) == 8


def test_a_parcel_signed_by_this_site_is_trusted_here(update_path: Path, tmp_path: Path, site: keys.Keys) -> None:
    keys.save(tmp_path / "home", site, None)
    assert (
        json_output(run_in_process("inspect", update_path, "--home", tmp_path / "home", "--json", home=tmp_path))[
            "trusted"
        ]
        is True
    )


def test_the_output_for_people_is_in_plain_words(update_path: Path, tmp_path: Path) -> None:
    printed = run_in_process("inspect", update_path, home=tmp_path).stdout
    assert printed.startswith("share.fhx: an update of a site for a round\n")
    assert "  trusted    no: " in printed
    assert "  encrypted  for 1 reader\n" in printed


def test_a_damaged_parcel_is_an_error_and_not_intact(update_path: Path, tmp_path: Path) -> None:
    update_path.write_bytes(update_path.read_bytes()[:-1])
    assert error_code(run_in_process("inspect", update_path, home=tmp_path)) == "E_TRUNCATED"
    process = run_in_process("inspect", update_path, "--json", home=tmp_path)
    facts = json_output(process)
    jsonschema.validate(facts, SHAPE)
    assert (process.returncode, facts["whole"]) == (1, False)
    assert facts["why"].startswith("E_TRUNCATED: ")


@pytest.mark.parametrize(
    ("name", "code"), [("empty", "E_TRUNCATED"), ("folder", "E_FILE_KIND"), ("gone", "E_FILE_MISSING")]
)
def test_a_file_that_is_not_a_parcel_is_refused(name: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    assert error_code(run_in_process("inspect", name, home=tmp_path)) == code

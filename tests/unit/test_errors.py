"""The tree of errors: stable codes, plain words, one page."""

from __future__ import annotations

import errno
import os
import runpy
from pathlib import Path

import pytest

from fedhelp_edge import errors

ROOT = Path(__file__).parents[2]
CODED = [kind for kind in errors.tree() if kind.code]


def test_every_code_is_one_error() -> None:
    codes = [kind.code for kind in CODED]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: str(kind.code))
def test_every_error_has_a_code_a_meaning_and_a_remedy_in_the_house_style(kind: type[errors.FedhelpError]) -> None:
    assert kind.code.startswith("E_")
    assert (kind.__doc__ or "").endswith(".")
    assert kind.remedy
    assert "\n" not in kind.remedy
    assert not kind.remedy.endswith(".")
    assert kind.remedy[0].islower()


def test_the_page_of_errors_matches_the_tree() -> None:
    written = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert written == runpy.run_path(str(ROOT / "docs" / "generate.py"))["page"](), "run 'make docs'"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, errors.NoSpaceError),
        (errno.EACCES, errors.NoPermissionError),
        (errno.EROFS, errors.NoPermissionError),
        (errno.ENOENT, errors.FileMissingError),
        (errno.EISDIR, errors.FileKindError),
        (errno.ELOOP, errors.FileKindError),
        (errno.EEXIST, errors.TargetExistsError),
        (errno.EIO, errors.NoSpaceError),
    ],
)
def test_a_system_error_becomes_a_fedhelp_error_without_its_path(number: int, kind: type[errors.FedhelpError]) -> None:
    error = errors.from_os(OSError(number, os.strerror(number), "/home/nurse/patients/x.png"))
    assert type(error) is kind
    assert "nurse" not in error.cause


def test_a_file_in_the_place_of_a_folder_is_named_and_not_what_was_to_be_in_it(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    with pytest.raises(OSError) as caught:  # Windows has another kind than Linux
        (tmp_path / "results" / "decoded" / "313c76").mkdir()
    error = errors.from_os(caught.value)
    assert (error.code, error.cause) == ("E_FILE_KIND", "results is a file, not a folder")
    assert "name a folder" in error.remedy

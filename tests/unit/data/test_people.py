"""Sex and age of patients, as tables and DICOM files write them, and bands instead of ages."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhelp_edge.data import loading, people
from tests.unit.data import samples


@pytest.mark.parametrize(
    ("word", "sex"),
    [("F", "female"), ("weiblich", "female"), (" M ", "male"), ("Féminin", "female"), ("0", ""), ("", "")],
)
def test_words_for_a_sex_are_known_and_codes_are_not_guessed(word: str, sex: str) -> None:
    assert people.parse_sex(word) == sex


@pytest.mark.parametrize(
    ("word", "band"),
    [
        ("17", "0-17"), ("18", "18-39"), ("39.9", "18-39"), ("064Y", "40-64"), ("65,5", "65-79"), ("80", "80 or older"),
        ("030M", "0-17"), ("300 m", "18-39"), ("999", ""), ("-4", ""), ("old", ""), ("", ""),
    ],
)  # fmt: skip
def test_an_age_becomes_a_band(word: str, band: str) -> None:
    assert people.parse_age(word) == band


def test_a_table_states_sex_and_age_and_a_dicom_file_where_the_table_does_not(tmp_path: Path) -> None:
    for index, pixels in enumerate(samples.noise(3)):
        samples.dicom(tmp_path / f"{index}.dcm", pixels, PatientSex="F", PatientAge="071Y")
    samples.save(tmp_path / "3.png", samples.noise(4)[3])
    rows = ("0.dcm,a,männlich,20", "1.dcm,b,,", "2.dcm,a,,20", "3.png,b,,")
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,Geschlecht,Alter", *rows]), "utf-8")
    for _ in range(2):  # the second time from the cache
        images = loading.load(tmp_path, samples.plan(), state_dir=tmp_path / "state")
        stated = zip(images.names, images.sexes, images.ages, strict=True)
        assert sorted(stated) == [
            ("0.dcm", "male", "18-39"), ("1.dcm", "female", "65-79"), ("2.dcm", "female", "18-39"), ("3.png", "", ""),
        ]  # fmt: skip

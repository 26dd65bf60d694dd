"""`doctor` reports what a machine can do and what to repair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import pytest

from fedhelp_edge import doctor
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import connection
from tests import http_front
from tests.clinic import Clinic
from tests.command import json_output, run, run_in_process

SHAPE = {
    "type": "object",
    "required": ["schema_version", "checks", "state"],
    "properties": {
        "state": {"enum": ["pass", "warn", "fail"]},
        "checks": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "state", "detail", "remedy"],
                "properties": {"state": {"enum": ["pass", "warn", "fail"]}},
            },
        },
    },
}


def check(home: Path, name: str) -> doctor.Check:
    return next(result for result in doctor.run_checks(home) if result.name == name)


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("person")


@pytest.fixture(scope="module")
def first_output(person: Path) -> subprocess.CompletedProcess[str]:
    """The output for a person without keys, images or models."""
    return run("doctor", "--json", home=person, env={"CI": ""})


def test_this_machine_passes_in_one_line_of_json(first_output: subprocess.CompletedProcess[str]) -> None:
    result = json_output(first_output)
    jsonschema.validate(result, SHAPE)
    assert (first_output.returncode, result["state"]) == (0, "pass"), result


def test_doctor_writes_nothing_into_the_home_of_the_person(
    person: Path, first_output: subprocess.CompletedProcess[str]
) -> None:
    assert first_output.stdout
    assert list(person.iterdir()) == []


@pytest.mark.usefixtures("quick_doctor")
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_keys_that_others_can_read_are_a_failure_with_a_remedy(tmp_path: Path) -> None:
    keys.save(tmp_path, keys.generate(), None).chmod(0o644)
    done = run_in_process("doctor", "--home", tmp_path, home=tmp_path)
    assert done.returncode == 1
    assert "FAIL  keys" in done.stdout
    assert "chmod 600" in done.stdout


def test_a_clock_in_the_past_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(datetime):
        @classmethod
        def now(cls, tz: timezone | None = None) -> datetime:  # type: ignore[override]
            return datetime(1999, 12, 31, tzinfo=tz)

    monkeypatch.setattr(doctor, "datetime", Slow)
    result = doctor._clock(tmp_path)
    assert result.state == doctor.WARN
    assert "slow" in result.detail


def test_the_worst_check_is_the_verdict() -> None:
    states = [doctor.Check("a", state, "") for state in (doctor.PASS, doctor.FAIL, doctor.WARN)]
    assert doctor.verdict(states) == doctor.FAIL
    assert doctor.verdict(states[:1]) == doctor.PASS


def test_a_machine_without_torch_can_diagnose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = '{"torch": "", "torchvision": "", "open_clip_torch": "", "onnx": ""}'
    monkeypatch.setattr(doctor, "_run_python", lambda arguments, env=None: (blank, ""))
    assert doctor._training().state == doctor.PASS
    assert "does not train" in doctor._training().detail


def test_a_process_that_hangs_is_a_failure_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TIMEOUT", 0.2)
    begin = datetime.now(timezone.utc)
    _, fault = doctor._run_python(["-c", "import time; time.sleep(60)"])
    assert "no answer" in fault
    assert datetime.now(timezone.utc) - begin < timedelta(seconds=30)


def test_the_carrier_is_checked_and_a_missing_network_is_not_a_failure(clinic: Clinic) -> None:
    assert doctor._carrier(clinic.home).state == doctor.PASS
    clinic.join()
    connection.save(clinic.home, via=clinic.stick)
    assert doctor._carrier(clinic.home).detail == "the folder is there"
    clinic.stick.rename(clinic.stick.with_name("pulled"))
    assert doctor._carrier(clinic.home).state == doctor.WARN
    with http_front.running(clinic.federation.folder / "hub") as port:
        connection.save(clinic.home, url=f"http://127.0.0.1:{port}")
        assert doctor._carrier(clinic.home).detail == "reachable"
    result = doctor._carrier(clinic.home)
    assert (result.state, "cannot be reached" in result.detail) == (doctor.WARN, True)
    assert "run the same command again" in result.remedy


@pytest.mark.usefixtures("quick_doctor")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems' thread libraries wait in their own way")
@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "threads, which sleep while other programs need the cores"),
        ({"GOMP_SPINCOUNT": "7"}, "GOMP_SPINCOUNT=7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "OMP_WAIT_POLICY=PASSIVE"),
    ],
)
def test_doctor_reports_how_threads_wait_and_respects_a_persons_choice(
    chosen: dict[str, str], expected: str, person: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    result = json.loads(run_in_process("doctor", "--json", home=person, env=chosen).stdout)
    assert expected in next(check["detail"] for check in result["checks"] if check["name"] == "training")

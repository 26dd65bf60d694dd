"""A hospital's archive (Debian's Orthanc): images that arrive there are answered, and results are found by study."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")

from fedhelp_edge.parcel import keys
from tests import archive, bundles, mask_bundles, studies
from tests.archive import AET, Orthanc, free_port, wait_until
from tests.unit.infer.test_dicom_masks import STUDY
from tests.unit.infer.test_dicom_masks import volume as outlined_volume

COUNT = int(os.environ.get("FEDHELP_INSTANCES", "30"))  # a thousand take some minutes


def test_images_stored_in_orthanc_come_back_answered_though_both_are_killed_in_between(tmp_path: Path) -> None:
    port = free_port()
    orthanc = Orthanc(tmp_path / "orthanc", port)
    keys.save(tmp_path / "home", bundles.site().keys, None)
    model = bundles.saved_model(tmp_path)
    words = (
        model, "--listen", str(port), "--aet", "FEDHELP", "--send-to", f"{AET}@127.0.0.1:{orthanc.port}",
        "--home", tmp_path / "home", "--threads", "1",
    )  # fmt: skip
    paths = studies.write(tmp_path / "in", COUNT)
    parts = [paths[start::3] for start in range(3)]
    log, memory = tmp_path / "log", []
    for part in parts[:2]:  # the node, and then the archive, is killed while images and results are on their way
        with orthanc.running(), archive.running(words, log) as process:
            for path in part:
                orthanc.ask("instances", path.read_bytes())
            wait_until(lambda: orthanc.count(Modality="SR") > 0)
            memory.append(archive.memory(process))
            process.send_signal(signal.SIGKILL)
        log.write_text("")
    with orthanc.running(), archive.running(words, log) as process:
        for path in parts[2]:
            orthanc.ask("instances", path.read_bytes())
        if late := [path for path in paths if not orthanc.count(SOPInstanceUID=_uid(path))]:
            pytest.fail(f"the archive lost {len(late)} images")
        # what Orthanc had not routed when it was killed, a person routes again; the node knows what it has answered
        wait_until(lambda: not orthanc.ask("jobs?expand") or _is_idle(orthanc), 300)
        for study in orthanc.ask("studies"):
            if "SR" not in orthanc.ask(f"studies/{study}/series?expand").__repr__():
                for instance in orthanc.ask(f"studies/{study}/instances"):
                    orthanc.ask("modalities/node/store", instance["ID"].encode())
        wait_until(lambda: orthanc.count(Modality="SR") >= COUNT, 30 + COUNT)
        wait_until(lambda: not any((tmp_path / "home" / "pacs" / "results").iterdir()))
        assert orthanc.count(Modality="SR") == COUNT
        for number in range(COUNT):
            assert orthanc.count(Modality="SR", StudyInstanceUID=f"1.2.3.{number}") == 1
        memory.append(archive.memory(process))
    assert max(memory) < memory[0] + 64 * 1024, memory  # kilobytes


def test_a_series_stored_in_orthanc_comes_back_outlined_once_though_the_node_is_killed(tmp_path: Path) -> None:
    port = free_port()
    orthanc = Orthanc(tmp_path / "orthanc", port)
    keys.save(tmp_path / "home", mask_bundles.site(8).keys, None)
    words = (
        mask_bundles.saved_model(tmp_path, 8), "--listen", str(port), "--send-to", f"{AET}@127.0.0.1:{orthanc.port}",
        "--home", tmp_path / "home", "--quiet", "2", "--threads", "1",
    )  # fmt: skip
    outlined_volume(tmp_path / "in", ImagesInAcquisition=mask_bundles.VOLUME[0])
    paths, log = sorted((tmp_path / "in").iterdir()), tmp_path / "log"
    arriving = tmp_path / "home" / "pacs" / "arriving"
    with orthanc.running():
        with archive.running(words, log) as process:
            for path in paths[:6]:
                orthanc.ask("instances", path.read_bytes())
            wait_until(lambda: len([*arriving.glob("*/*.dcm")]) == 6)
            process.send_signal(signal.SIGKILL)
        log.write_text("")
        with archive.running(words, log):
            stored = [orthanc.ask("instances", path.read_bytes())["ID"] for path in paths[6:]]
            for instance in stored:  # Orthanc loses what it sends to a node that it believes alive: a person routes it
                orthanc.ask("modalities/node/store", instance.encode())
            wait_until(lambda: orthanc.count(Modality="SEG") == 1)
        assert orthanc.count(Modality="SEG", StudyInstanceUID=STUDY["StudyInstanceUID"]) == 1
        assert orthanc.count(Modality="SR") == 0


def test_the_example_beside_orthanc_answers_an_image_that_arrives(tmp_path: Path) -> None:
    for program, package in (("Orthanc", "orthanc"), ("storescu", "dcmtk")):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed (Debian: {package})")
    example = shutil.copytree(archive.EXAMPLE, tmp_path / "example")
    ports = {old: str(free_port()) for old in ("8042", "4242", "11112")}
    for name in ("orthanc.json", "start.sh"):
        text = (example / name).read_text()
        for old, new in ports.items():
            text = text.replace(old, new)
        (example / name).write_text(text)
    command = tmp_path / "fedhelp-edge"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m fedhelp_edge "$@"\n')
    command.chmod(0o755)
    keys.save(tmp_path / "home", bundles.site().keys, None)
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FEDHELP_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        words = ["sh", str(example / "start.sh"), str(bundles.saved_model(tmp_path))]
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        wait_until(lambda: "listens on" in (tmp_path / "log").read_text())
        (image,) = studies.write(tmp_path / "in", 1)
        store = ["storescu", "-aec", "ORTHANC", "127.0.0.1", ports["4242"], str(image)]
        wait_until(lambda: subprocess.run(store, capture_output=True, check=False).returncode == 0)
        query = b'{"Level": "Series", "Query": {"Modality": "SR"}}'
        url = f"http://127.0.0.1:{ports['8042']}/tools/find"
        wait_until(lambda: len(json.loads(urllib.request.urlopen(url, query, timeout=30).read())) == 1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _uid(path: Path) -> str:
    return f"1.2.3.{path.stem}.1.1"


def _is_idle(orthanc: Orthanc) -> bool:
    return all(job["State"] not in ("Pending", "Running", "Retry") for job in orthanc.ask("jobs?expand"))

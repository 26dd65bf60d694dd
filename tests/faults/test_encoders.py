"""Faults of an encoder on its way to a site, and of the disk on which the site keeps it and its features."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from fedhelp_edge import encoder, errors
from fedhelp_edge.data import loading
from fedhelp_edge.encoder import onnx_file
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import inbox
from tests import encoders, http_front
from tests.clinic import Clinic
from tests.faults import kills
from tests.faults.test_kills import make_old
from tests.federation import PLAN, Federation, nobody
from tests.unit.data import samples

WIDTH = 500  # features
ENCODER = encoders.model(WIDTH).SerializeToString()  # some 100 KB
SHA256 = hashlib.sha256(ENCODER).hexdigest()


@pytest.fixture(scope="module")
def admitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """A clinic that was admitted to a federation whose encoder is published, and has downloaded nothing."""
    folder = tmp_path_factory.mktemp("encoder")
    nets = f'[nets]\nencoder = "tiny.onnx"\nencoder_sha256 = "{SHA256}"\nencoder_width = {WIDTH}\n'
    federation = Federation(folder / "federation", f'{PLAN}{nets}small = "linear"\nlarge = "linear"\n', clinics=0)
    federation.hub.publish_encoder(federation.coordinator_keys, io.BytesIO(ENCODER))
    clinic = Clinic(federation, folder / "clinic")
    clinic.join()
    clinic.carry_stick()
    yield clinic
    federation.hub.database.close()


@pytest.fixture
def clinic(admitted: Clinic, tmp_path: Path) -> Clinic:
    return admitted.copy_to(tmp_path)


@pytest.fixture
def front(clinic: Clinic) -> Iterator[HttpCarrier]:
    """The front of the federation, as this clinic reaches it."""
    with http_front.running(clinic.federation.hub.home) as port:
        yield HttpCarrier(
            f"http://127.0.0.1:{port}", clinic.federation.hub.federation, lambda: keys.load(clinic.home, nobody),
            clinic.home / "incoming",
        )  # fmt: skip


def copies(clinic: Clinic) -> list[str]:
    """The files of a site's home that hold the encoder, each by its folder."""
    return [path.parent.name for path in clinic.home.rglob("*") if path.is_file() and ENCODER in path.read_bytes()]


def test_h06_a_site_keeps_an_encoder_once_and_does_not_fetch_it_again(clinic: Clinic, front: HttpCarrier) -> None:
    assert any("encoder" in new for new in inbox.download(clinic.home, [front], nobody).new)
    assert copies(clinic) == ["encoder"]
    assert inbox.download(clinic.home, [front], nobody).new == []
    assert copies(clinic) == ["encoder"]


def test_h06_a_second_copy_of_an_earlier_version_is_removed(clinic: Clinic, front: HttpCarrier) -> None:
    inbox.download(clinic.home, [front], nobody)
    for note in (clinic.home / "encoder").glob("*.parcel"):  # which earlier versions did not write
        note.unlink()
    assert len([*front.fetch(inbox.held_hashes(clinic.home))]) > 1
    assert sorted(copies(clinic)) == ["encoder", "incoming"]
    inbox.download(clinic.home, [front], nobody)
    assert copies(clinic) == ["encoder"]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_h06_one_copy_remains_whenever_a_site_is_killed_while_it_stores_it(
    clinic: Clinic, front: HttpCarrier, effort: Callable[[int, int], int]
) -> None:
    assert len([*front.fetch(frozenset())]) > 1
    shutil.copytree(clinic.home, fresh := clinic.home.with_name("fresh"))
    step = 1
    while kills.run(kills.import_largest, clinic.home, dies_before=step) == kills.KILLED:
        make_old(clinic.home)
        for _ in range(2):  # the first one leaves what it did not need, as at a site that was not killed
            inbox.download(clinic.home, [front], nobody)
        assert copies(clinic) == ["encoder"], step
        shutil.rmtree(clinic.home)
        shutil.copytree(fresh, clinic.home)
        step += effort(4, 1)
    assert step > 8
    assert copies(clinic) == ["encoder"]


def test_h07_an_encoder_that_is_damaged_in_the_home_is_fetched_again(clinic: Clinic, front: HttpCarrier) -> None:
    inbox.download(clinic.home, [front], nobody)
    (file,) = (clinic.home / "encoder").glob("*.onnx")
    for damage in (lambda: os.truncate(file, 1000), file.unlink):
        damage()
        inbox.download(clinic.home, [front], nobody)
        assert copies(clinic) == ["encoder"]


def test_h08_an_encoder_on_a_full_disk_arrives_once_there_is_room(
    clinic: Clinic, tiny_disk: Callable[[int], Path]
) -> None:
    disk = tiny_disk(4000)
    shutil.copytree(clinic.home, disk / "home")
    clinic.home = disk / "home"
    (disk / "full").write_bytes(bytes(shutil.disk_usage(disk).free - (80 << 10)))
    with pytest.raises(OSError) as caught:
        clinic.download()
    assert errors.from_os(caught.value).code == "E_STORAGE"
    assert copies(clinic) == []
    (disk / "full").unlink()
    clinic.download()
    assert copies(clinic) == ["encoder"]


def test_h08_a_disk_with_room_for_two_copies_has_room_for_a_download(
    clinic: Clinic, front: HttpCarrier, tiny_disk: Callable[[int], Path]
) -> None:
    disk = tiny_disk(4000)
    shutil.copytree(clinic.home, disk / "home")
    clinic.home, front.downloads = disk / "home", disk / "home" / "incoming"
    room = 2 * len(ENCODER) + (100 << 10)  # and some for other parcels, which a front lists with it
    (disk / "full").write_bytes(bytes(shutil.disk_usage(disk).free - room))
    inbox.download(clinic.home, [front], nobody)
    assert copies(clinic) == ["encoder"]


def test_h08_features_on_a_full_disk_are_computed_once_there_is_room(
    clinic: Clinic, tmp_path: Path, tiny_disk: Callable[[int], Path]
) -> None:
    plan, state = clinic.federation.plan, tiny_disk(4000)
    opened = onnx_file.parse(ENCODER, "tiny.onnx")
    images = loading.load(samples.folder(tmp_path / "images", 6, plan.classes[:2]), plan, state_dir=tmp_path)
    (state / "full").write_bytes(bytes(shutil.disk_usage(state).free - (8 << 10)))
    with pytest.raises(OSError) as caught:
        encoder.embed_images(images, plan, opened, state)
    assert errors.from_os(caught.value).code == "E_STORAGE"
    (state / "full").unlink()
    computed = encoder.embed_images(images, plan, opened, state).pixels[:]
    assert computed.tobytes() == encoder.embed_images(images, plan, opened, tmp_path).pixels[:].tobytes()

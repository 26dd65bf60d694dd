"""What may be private is handed to no program and no service."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import plan
from fedhelp_edge.data import loading, store
from fedhelp_edge.errors import PrivateImagesError
from fedhelp_edge.knowledge import private
from fedhelp_edge.methods.registry import METHODS
from tests import hostile_front
from tests.command import error_code, json_output, run_in_process
from tests.hostile_front import HostileFront

PLAN = 'classes = ["a", "b"]\nmethod = "fedavg"\n[image]\nsize = 16\n'


def drawn(seed: int, count: int = 6, side: int = 48) -> NDArray[np.uint8]:
    """Images with soft blots, which differ from each other all over."""
    blots = np.random.Generator(np.random.Philox(seed)).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in blots]
    )


def right(request: hostile_front.ReceivedRequest) -> bytes:
    asked = json.loads(request.body)
    said = {**asked, "probabilities": [[0.25, 0.75]] * len(asked.pop("images"))}
    return hostile_front.response(json.dumps(said).encode())


def write_folder(root: Path, pixels: NDArray[np.uint8]) -> Path:
    """Images in folders of their classes."""
    for index, image in enumerate(pixels):
        path = root / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


def write_npz(path: Path, pixels: NDArray[np.uint8], **more: NDArray[np.generic]) -> Path:
    np.savez(path, images=pixels, labels=np.arange(len(pixels)) % 2, class_names=np.array(["a", "b"]), **more)
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The home of a site that has decoded its images, which lie in the folder `own`."""
    own = write_folder(tmp_path / "own", drawn(1))
    home = tmp_path / "home"
    loading.load(own, plan.read(PLAN, METHODS), state_dir=home / "images")
    (home / "images.txt").write_text(str(own))
    return home


def refused(check: Callable[[], None]) -> str:
    with pytest.raises(PrivateImagesError) as error:
        check()
    return error.value.cause


def test_images_of_a_site_are_private_by_their_place(site: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (tmp_path / "link").symlink_to(own)
    for place in (own, own / "a", tmp_path, tmp_path / "link", tmp_path / "home" / ".." / "own"):
        assert "trains on" in refused(lambda place=place: private.check_place(place, site, own))
    assert "home of this site" in refused(lambda: private.check_place(site / "images", site, own))
    table = own / "table.csv"
    assert "trains on" in refused(lambda: private.check_place(own / "b", site, table))
    private.check_place(tmp_path / "owned", site, own)
    private.check_place(own, site, None)


@pytest.mark.parametrize("side", [16, 48, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_copy_of_a_sites_image_is_found_at_another_place_size_and_colour(
    site: Path, side: int, channels: int
) -> None:
    public = drawn(2, 5, side)
    private.check_looks(public[..., :channels], site)
    public[2] = np.asarray(Image.fromarray(drawn(1)[3]).resize((side, side), Image.Resampling.BILINEAR))
    if channels == 1:
        public = np.rint(public.mean(3, keepdims=True)).astype(np.uint8)
    cause = refused(lambda: private.check_looks(public, site))
    assert cause == "1 public image looks like images of this site, first image 2"


def test_links_and_tables_that_lead_to_a_sites_images_are_private(site: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    linked = write_folder(tmp_path / "linked", drawn(3))
    private.check_place(linked, site, own)
    (linked / "a" / "more.png").symlink_to(own / "b" / "1.png")
    assert "trains on" in refused(lambda: private.check_place(linked, site, own))
    named = write_folder(tmp_path / "named", drawn(3))
    for path in ("../own/a/0.png", str(own / "a" / "0.png")):
        (named / "labels.csv").write_text(f"path,label\na/0.png,a\n{path},a\n")
        assert "trains on" in refused(lambda: private.check_place(named, site, own))
        assert "trains on" in refused(lambda: private.check_place(named / "labels.csv", site, own))
    (tmp_path / "scan").write_bytes(bytes(128) + b"DICM" + bytes(100))
    (named / "labels.csv").write_text("path,label\na/0.png,a\n../scan,a\n")
    assert "DICOM" in refused(lambda: private.check_kind(named))


def test_images_on_which_a_site_measured_are_its_own_too(site: Path, tmp_path: Path) -> None:
    private.check_looks(drawn(4), site)
    loading.load(write_folder(tmp_path / "more", drawn(4)), plan.read(PLAN, METHODS), state_dir=site / "others")
    assert "6 public images look like" in refused(lambda: private.check_looks(drawn(4), site))


def test_a_home_without_images_knows_no_private_ones(tmp_path: Path) -> None:
    private.check_looks(drawn(1), tmp_path)


def test_decoded_images_are_read_at_their_own_size_and_damaged_files_are_passed_over(
    site: Path, tmp_path: Path
) -> None:
    write_folder(tmp_path / "grey", drawn(3, 4))
    grey = plan.read(PLAN.replace("size = 16", "size = 9\nchannels = 1\nmean = [0.5]\nstd = [0.2]"), METHODS)
    loading.load(tmp_path / "grey", grey, state_dir=site / "images")
    assert sorted(pixels.shape for pixels in store.decoded_images(site / "images")) == [(4, 9, 9, 1), (6, 16, 16, 3)]
    for path in (site / "images" / "decoded").glob("*/*.images"):
        path.write_bytes(path.read_bytes()[:-3])
    assert list(store.decoded_images(site / "images")) == []


@pytest.mark.parametrize("heading", ["patient", "PatientID", "Fallnummer", "lesion_id"])
def test_a_table_that_tells_patients_apart_is_private(tmp_path: Path, heading: str) -> None:
    folder = write_folder(tmp_path / "set", drawn(4))
    rows = "".join(f"{'ab'[index % 2]}/{index}.png,a,{index}\n" for index in range(6))
    (folder / "labels.csv").write_text(f"path,label,{heading}\n{rows}")
    assert heading in refused(lambda: private.check_kind(folder))
    assert heading in refused(lambda: private.check_kind(folder / "labels.csv"))
    (folder / "labels.csv").write_text(f"path,label,centre\n{rows}")
    private.check_kind(folder)


def test_folders_and_arrays_that_tell_patients_apart_are_private(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", drawn(4))
    private.check_kind(folder)
    write_folder(folder / "a" / "patient 7", drawn(5, 1))
    assert "may be patients" in refused(lambda: private.check_kind(folder))
    private.check_kind(write_npz(tmp_path / "public.npz", drawn(4)))
    for name in ("groups", "train_patients", "lesions"):
        path = write_npz(tmp_path / f"{name}.npz", drawn(4), **{name: np.arange(6)})
        assert name in refused(lambda path=path: private.check_kind(path))


@pytest.mark.parametrize("name", ["a/scan.dcm", "a/scan", "a/scan.png", "b/notes.txt"])
def test_a_folder_with_a_dicom_file_is_private_whatever_its_name(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "set", drawn(4))
    (folder / name).write_bytes(bytes(128) + b"DICM" + bytes(100))
    assert "DICOM" in refused(lambda: private.check_kind(folder))
    (folder / "labels.csv").write_text(f"path,label\n{name},a\n")
    assert "DICOM" in refused(lambda: private.check_kind(folder / "labels.csv"))
    (folder / "labels.csv").write_text("path,label\na/0.png,a\n")
    private.check_kind(folder / "labels.csv")  # a table hands on what it names


# --- the command -----------------------------------------------------------------------------------------------------
@pytest.fixture
def service() -> Callable[[], HostileFront]:
    with hostile_front.running(right) as server:
        yield server


def build(folder: Path, public: str, source: str, *more: str, home: str = "home") -> object:
    words = ("--public", public, "--source", source, "--out", "pack", "--home", home, *more)
    return run_in_process("knowledge", "build", *words, "--rate", "1000000", home=folder)


def test_private_images_reach_neither_a_service_nor_a_program(
    site: Path, tmp_path: Path, service: HostileFront
) -> None:
    write_npz(tmp_path / "public.npz", drawn(2))
    write_npz(tmp_path / "copies.npz", drawn(1))
    write_npz(tmp_path / "patients.npz", drawn(2), patients=np.arange(6))
    shutil.copytree(tmp_path / "own", tmp_path / "elsewhere")
    (tmp_path / "ask.py").write_text("open('was-asked', 'w')")
    program = f"program:{sys.executable} ask.py"
    for public in ("own", "own/a", "copies.npz", "patients.npz", "elsewhere"):
        for source in (f"{service.url}/ask", program):
            assert error_code(build(tmp_path, public, source, "--yes")) == "E_PRIVATE_IMAGES"
    assert service.requests == []
    assert not (tmp_path / "was-asked").exists()
    np.savez(tmp_path / "answers.npz", probabilities=np.full((6, 2), 0.5, np.float32))
    assert build(tmp_path, "copies.npz", "files:answers.npz").returncode == 0  # what stays here may be any image
    (tmp_path / "pack").unlink()
    done = build(tmp_path, "public.npz", f"{service.url}/ask", "--yes", "--json")
    assert json_output(done)["sources"] == [f"{service.url}/ask"]


def test_nothing_is_sent_before_somebody_agrees_and_the_cost_is_said(tmp_path: Path, service: HostileFront) -> None:
    write_npz(tmp_path / "public.npz", drawn(2))
    done = build(tmp_path, "public.npz", f"{service.url}/ask", "--batch", "4")
    assert error_code(done) == "E_USAGE"
    assert "hint: add --yes to send them" in done.stderr
    assert f"{service.url}/ask gets 6 public images in 2 requests; at 1e+06 a minute this takes 1 minute" in done.stderr
    assert service.requests == []
    assert build(tmp_path, "public.npz", f"{service.url}/ask", "--yes").returncode == 0
    (tmp_path / "pack").unlink()
    assert build(tmp_path, "public.npz", f"{service.url}/ask").returncode == 0  # all is saved: nothing to agree to


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal")
@pytest.mark.parametrize("typed", ["n", "y"])
def test_a_person_at_a_terminal_decides_whether_images_are_sent(
    tmp_path: Path, service: HostileFront, typed: str
) -> None:
    from tests import terminal

    write_npz(tmp_path / "public.npz", drawn(2))
    words = ("knowledge", "build", "--public", "public.npz", "--source", f"{service.url}/ask", "--out", "pack")
    with terminal.running(*words, home=tmp_path) as screen:
        screen.sees("6 public images in 1 request")
        screen.sees("no image of a patient")
        screen.sees("send them? [y/N]")
        assert service.requests == []
        screen.types(typed)
        assert (screen.ends() == 0) is (typed == "y"), screen.screen
    assert len(service.requests) == (typed == "y")


@pytest.mark.parametrize("option", [("--rate", "nan"), ("--rate", "inf"), ("--timeout", "nan"), ("--timeout", "1e9")])
def test_a_rate_or_time_that_is_no_ordinary_number_is_wrong_usage(tmp_path: Path, option: tuple[str, str]) -> None:
    words = ("--public", "public.npz", "--source", "http://127.0.0.1:1/ask", "--out", "pack", "--yes", *option)
    assert error_code(run_in_process("knowledge", "build", *words, home=tmp_path)) == "E_USAGE"


def test_images_travel_unencrypted_only_where_somebody_says_so(tmp_path: Path) -> None:
    write_npz(tmp_path / "public.npz", drawn(2))
    done = build(tmp_path, "public.npz", "http://192.0.2.1/ask", "--yes")
    assert error_code(done) == "E_USAGE"
    assert "unencrypted" in done.stderr
    done = build(tmp_path, "public.npz", "http://192.0.2.1/ask", "--plain-http")
    assert "add --yes" in done.stderr

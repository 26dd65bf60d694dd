"""A DICOM node with a model for masks: outlines out, a series answered once it is whole, and nothing lost."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")

from highdicom import seg

from fedhelp_edge import files
from fedhelp_edge.infer import drawing
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.pacs.queue import SeriesQueue
from tests import mask_bundles
from tests.archive import SmallArchive, send, wait_until
from tests.bundles import run_command
from tests.unit.data import samples, series
from tests.unit.infer.test_dicom_masks import STUDY, labels, volume
from tests.unit.pacs.test_node import node
from tests.unit.pacs.test_queue import Killed, answer
from tests.unit.page.test_serve_masks import case

MODEL = "a" * 64
QUIET = 0.3  # seconds


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> MaskBundle:
    return mask_bundles.loaded_bundle(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> MaskBundle:
    return mask_bundles.loaded_bundle(tmp_path_factory.mktemp("volumes"), 8)


@pytest.fixture
def small() -> SmallArchive:
    return SmallArchive()


def picture(path: Path, pixels: Any, uid: str = "1.2.3.9", **tags: Any) -> Path:
    """Writes a picture whose window shows its bytes as they are."""
    uids = {"SOPInstanceUID": uid, "SeriesInstanceUID": "1.2.3.8"}
    return samples.dicom(path, pixels, WindowCenter=128, WindowWidth=256, **{**uids, **STUDY, **tags})


def no_count(path: Path) -> int:
    return 0


def test_a_picture_comes_back_outlined_and_one_that_cannot_be_with_a_report(
    pictures: MaskBundle, small: SmallArchive, tmp_path: Path
) -> None:
    board = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255
    paths = [picture(tmp_path / "a.dcm", case()), picture(tmp_path / "b.dcm", board, "1.2.3.10")]
    paths.append(picture(tmp_path / "c.dcm", case(), "1.2.3.11", SOPClassUID=series.MR_IMAGE))
    with small.listening() as port, node(pictures, tmp_path / "queue", port) as own_port:
        assert send(own_port, [*paths, *paths]) == [0] * 6
        wait_until(lambda: len(small.stored) == 3)
        wait_until(lambda: not any((tmp_path / "queue" / "results").iterdir()))
    (outline,) = small.of_kind("Segmentation")
    assert {each.StudyInstanceUID for each in small.stored.values()} == {STUDY["StudyInstanceUID"]}
    for report, reason in zip(small.reports, ("unlike the training images", "its frame of reference"), strict=True):
        assert "not-classified" in report.to_json()
        assert reason in report.to_json()
    drawn = drawing.outline(pictures, case()[..., None], case().shape).drawn
    assert np.array_equal(labels(seg.Segmentation.from_dataset(outline), (1, *case().shape))[0], drawn.mask)
    assert small.calls == 3


def test_a_series_is_answered_once_when_no_more_of_it_comes(
    volumes: MaskBundle, small: SmallArchive, tmp_path: Path
) -> None:
    volume(tmp_path / "in")
    paths = sorted((tmp_path / "in").iterdir())
    reports: list[str] = []
    queue = SeriesQueue(tmp_path / "queue", volumes.sha256, QUIET, no_count)
    left = (queue.arriving, queue.waiting, queue.results)
    with small.listening() as port, node(volumes, queue, port, reports=reports) as own_port:
        send(own_port, paths[::2])
        send(own_port, paths[1::2])  # a second association goes on
        wait_until(lambda: len(small.stored) == 1)
        for again in (paths, paths[2:5]):  # whole and in part
            send(own_port, again)
            wait_until(lambda: not any(each for folder in left for each in folder.iterdir()))
    (outline,) = small.stored.values()
    assert outline.SOPClassUID.name == "Segmentation Storage"
    assert {each.ReferencedSOPInstanceUID for each in outline.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert (small.calls, reports) == (1, [])


def test_a_series_that_lacks_slices_gets_a_report_and_the_whole_one_its_outline(
    volumes: MaskBundle, small: SmallArchive, tmp_path: Path
) -> None:
    volume(tmp_path / "in")
    paths = sorted((tmp_path / "in").iterdir())
    queue = SeriesQueue(tmp_path / "queue", volumes.sha256, QUIET, no_count)
    with small.listening() as port, node(volumes, queue, port) as own_port:
        send(own_port, [*paths[:3], *paths[4:]])
        wait_until(lambda: len(small.reports) == 1)
        assert "it lacks 1 slice" in small.reports[0].to_json()
        send(own_port, paths)
        wait_until(lambda: len(small.of_kind("Segmentation")) == 1)


def test_a_series_that_states_more_images_waits_longer(tmp_path: Path) -> None:
    queue = SeriesQueue(tmp_path, MODEL, 30, lambda path: int(path.read_bytes()))
    with queue.opened():
        for name, count in (("whole", b"2"), ("lacking", b"3")):
            for number in range(2):
                queue.add(f"{name}{number}", [count], name)
        quiet_since(queue, 29)
        assert queue.oldest() is None
        quiet_since(queue, 31)
        assert [path.read_bytes() for path in oldest(queue).iterdir()] == [b"2", b"2"]
        assert answer(queue)
        quiet_since(queue, 31)
        assert queue.oldest() is None
        quiet_since(queue, 301)
        assert oldest(queue)


def test_a_series_goes_on_after_a_node_was_away(tmp_path: Path) -> None:
    queue = SeriesQueue(tmp_path, MODEL, 30, no_count)
    with queue.opened():
        queue.add("1", [b"x"], "1")
        (series,) = queue.arriving.iterdir()
        os.utime(series, (0, 0))
    with queue.opened():
        queue.gather()
        assert queue.oldest() is None


def test_a_queue_killed_at_any_step_answers_each_series_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for last_step in range(1, 40):
        folder, steps, sent = tmp_path / str(last_step), itertools.count(1), list[str]()

        def step(call: Any, steps: Any = steps, last_step: int = last_step) -> Any:
            def killed(*words: Any, **options: Any) -> Any:
                if next(steps) == last_step:
                    raise Killed
                return call(*words, **options)

            return killed

        with monkeypatch.context() as patched, suppress(Killed):
            for name in ("sync_folder", "writing"):
                patched.setattr(files, name, step(getattr(files, name)))
            run_once(folder, sent)
            return
        run_once(folder, sent)
        assert len(set(sent)) == 1
        assert not any((folder / "series").iterdir())
        assert not any((folder / "arriving").iterdir())
    pytest.fail("it has more steps than were tried")


def run_once(folder: Path, sent: list[str]) -> None:
    """Runs a queue as a node does, from a series that is sent to it until its results are."""
    queue = SeriesQueue(folder, MODEL, 30, no_count)
    with queue.opened():
        for image in range(3):
            queue.add(f"1.{image}", [b"x"], "1")
        quiet_since(queue, 31)
        while path := queue.oldest():
            queue.remember(path)
            assert answer(queue)
        for result in queue.to_send():
            sent.append(result.name)
            (result / "report.dcm").unlink()
            result.rmdir()


def test_reports_alone_are_refused_for_a_model_for_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = mask_bundles.saved_model(tmp_path)
    words = ("--listen", "1", "--send-to", "A@h:1", "--sr", "--signer", mask_bundles.export_result().facts.signer)
    code, _, err = run_command(capsys, "pacs", model, *words)
    assert (code, "--sr is for models of classes" in err) == (2, True)


def quiet_since(queue: SeriesQueue, seconds: float) -> None:
    """Lets so many seconds pass since the last image of each series."""
    for folder in queue.arriving.iterdir():
        then = folder.stat().st_mtime - seconds
        os.utime(folder, (then, then))
    queue.gather()


def oldest(queue: SeriesQueue) -> Path:
    path = queue.oldest()
    assert path is not None
    return path

"""The node's queue: nothing is lost and nothing is answered twice, wherever the node is killed."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from fedhelp_edge import files
from fedhelp_edge.errors import BusyError
from fedhelp_edge.pacs.queue import Queue

MODEL, OTHER_MODEL = "a" * 64, "b" * 64


class Killed(BaseException):
    """The node is killed at this instant."""


def answer(queue: Queue) -> bool:
    """Answers the oldest image as a node does; False if there is none."""
    image = queue.oldest()
    if image is None:
        return False
    (queue.making / "report.dcm").write_bytes(b"report")
    queue.answered(image, ["report.dcm"])
    return True


def results(queue: Queue) -> list[str]:
    return [path.name for folder in queue.to_send() for path in folder.iterdir()]


def test_an_image_waits_until_it_is_answered_and_its_results_until_they_are_sent(tmp_path: Path) -> None:
    queue = Queue(tmp_path, MODEL)
    with queue.opened():
        assert queue.add("1.2", [b"one ", b"image"])
        image = queue.oldest()
        assert image is not None
        assert image.read_bytes() == b"one image"
        assert answer(queue)
        assert (queue.oldest(), results(queue)) == (None, ["report.dcm"])


def test_the_oldest_comes_first(tmp_path: Path) -> None:
    queue = Queue(tmp_path, MODEL)
    with queue.opened():
        for uid in ("1", "2", "3"):
            queue.add(uid, [uid.encode()])
        for number, path in enumerate(sorted(queue.waiting.iterdir(), key=lambda path: path.read_bytes())):
            os.utime(path, (number, 100 - number))
        order = []
        while image := queue.oldest():
            order.append(image.read_bytes())
            answer(queue)
        assert order == [b"3", b"2", b"1"]


def test_the_same_image_is_answered_once_whenever_it_comes_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path, MODEL)
    with queue.opened():
        assert [queue.add("1", [b"x"]) for _ in range(2)] == [True, False]
        answer(queue)
        assert not queue.add("1", [b"x"])
        for folder in queue.to_send():
            (folder / "report.dcm").unlink()
            folder.rmdir()
        assert not queue.add("1", [b"x"])
    with Queue(tmp_path, MODEL).opened():
        assert not queue.add("1", [b"x"])


def test_another_model_answers_it_again(tmp_path: Path) -> None:
    for model in (MODEL, OTHER_MODEL):
        queue = Queue(tmp_path, model)
        with queue.opened():
            assert queue.add("1", [b"x"])
            assert answer(queue)
    assert len(results(queue)) == 2


def test_a_node_killed_at_any_step_loses_nothing_and_answers_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, steps = files.sync_folder, 0
    for kill_at in itertools.count(1):
        folder, calls = tmp_path / str(kill_at), itertools.count(1)

        def killed(path: Path, kill_at: int = kill_at, calls: itertools.count[int] = calls) -> None:
            if next(calls) == kill_at:
                raise Killed
            sync(path)

        queue, was_killed = Queue(folder, MODEL), False
        monkeypatch.setattr(files, "sync_folder", killed)
        try:
            with queue.opened():
                queue.add("1", [b"x"])
                answer(queue)
        except Killed:
            was_killed = True
        monkeypatch.setattr(files, "sync_folder", sync)
        again = Queue(folder, MODEL)
        with again.opened():
            sent_before_recovery = results(again)
            again.add("1", [b"x"])  # its sender was not told, so it sends the image again
            while answer(again):
                pass
            assert results(again) == ["report.dcm"], kill_at
            assert len(sent_before_recovery) <= 1
            assert not again.add("1", [b"x"])
            assert not list(again.waiting.iterdir())
        steps = kill_at
        if not was_killed:
            break
    assert steps > 5


def test_results_of_an_image_that_still_waits_are_not_sent_yet(tmp_path: Path) -> None:
    queue = Queue(tmp_path, MODEL)
    with queue.opened():
        queue.add("1", [b"x"])
        image = queue.oldest()
        assert image is not None
        answer(queue)
        image.write_bytes(b"x")  # as if the node were killed before it removed the image
        assert results(queue) == []
    with queue.opened():
        assert results(queue) == ["report.dcm"]


def test_two_nodes_do_not_share_a_queue(tmp_path: Path) -> None:
    with Queue(tmp_path, MODEL).opened(), pytest.raises(BusyError), Queue(tmp_path, MODEL).opened():
        pass

"""The node: one thread answers what has arrived, one sends results; connections have threads of their own."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedhelp_edge import prometheus
from fedhelp_edge.data import folder, picture
from fedhelp_edge.errors import FedhelpError, from_os
from fedhelp_edge.infer import answering, inputs, mask_answering
from fedhelp_edge.infer.bundle import AnyBundle, MaskBundle
from fedhelp_edge.infer.dicom_masks import MaskWriter
from fedhelp_edge.infer.dicom_results import ResultWriter
from fedhelp_edge.infer.event_log import EventLog
from fedhelp_edge.infer.inputs import InputItem
from fedhelp_edge.pacs import receive
from fedhelp_edge.pacs.queue import Queue
from fedhelp_edge.pacs.send import Archive, Sender
from fedhelp_edge.prometheus import Metric

_IDLE = 2.0  # seconds between two looks at the queue
_AT_ONCE = 256  # results in one association


@dataclass(frozen=True)
class Settings:
    """How a node is set up."""

    aet: str
    address: tuple[str, int]
    archive: Archive
    allowed: Sequence[str]  # AE titles that may call
    heatmap: bool = True
    tls: ssl.SSLContext | None = None  # of callers
    silence: float = 60.0  # seconds after which a silent caller or archive is given up
    longest_wait: float = 60.0  # seconds between two attempts to reach the archive
    metrics: tuple[str, int] | None = None  # the address of figures for Prometheus
    events: EventLog | None = None  # where answers are logged


class Node:
    """Receives images, answers them, and sends results, until it is stopped."""

    def __init__(self, bundle: AnyBundle, queue: Queue, settings: Settings, report: Callable[[str], None]) -> None:
        self._bundle, self._queue, self._settings, self._report = bundle, queue, settings, report
        self._arrived, self._ready, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._answer: Callable[[Sequence[InputItem]], Iterator[dict[str, Any]]] = (
            partial(mask_answering.answer_items, bundle, results=MaskWriter(queue.making, bundle))
            if isinstance(bundle, MaskBundle)
            else partial(answering.answer_items, bundle, results=ResultWriter(queue.making, bundle, settings.heatmap))
        )
        self._sender = Sender(settings.archive, settings.aet, settings.silence)
        self._verdicts: Counter[str] = Counter()
        self._failed = self._sent = self._refused = 0
        self._seconds, self._is_archive_up = 0.0, True

    def stop(self) -> None:
        """End `run` at once; what is under way is done again by the next node."""
        self._stopped.set()
        self._arrived.set()
        self._ready.set()
        self._sender.end()

    def metrics(self) -> list[Metric]:
        """Figures of the node, for any thread. None says which finding an image had."""
        return [
            Metric("fedhelp_node_model_info", "The start of the model's hash.", {self._bundle.sha256[:16]: 1}, "model"),
            Metric("fedhelp_node_queue", "Images in the queue: waiting, answered and not sent, put aside.",
                   self._queue.sizes(), "state"),
            Metric("fedhelp_node_oldest_image_seconds", "How long the oldest image has waited.",
                   self._queue.longest_wait()),
            Metric("fedhelp_node_answers_total", "Answers by verdict.", self._verdicts.copy(), "verdict"),
            Metric("fedhelp_node_answer_seconds_total", "Seconds spent on answers.", self._seconds),
            Metric("fedhelp_node_failures_total", "Images that this program failed on.", self._failed),
            Metric("fedhelp_node_sent_total", "Images whose results the archive has confirmed.", self._sent),
            Metric("fedhelp_node_refusals_total", "Results that the archive did not take.", self._refused),
            Metric("fedhelp_node_archive_up", "1 unless the last attempt to send results failed.",
                   int(self._is_archive_up)),
            *prometheus.machine_metrics(self._queue.folder),
        ]  # fmt: skip

    def run(self, started: Callable[[tuple[str, int]], None]) -> None:
        """Run until `stop`, or until a signal ends it; `started` hears the address."""
        logging.getLogger("pynetdicom").addHandler(logging.NullHandler())  # it would print addresses and titles
        settings = self._settings
        with (
            picture.without_warnings(),
            self._queue.opened(),
            receive.listening(
                self._queue,
                settings.aet,
                settings.address,
                settings.allowed,
                settings.tls,
                self._arrived,
                settings.silence,
            ) as address,
            prometheus.serving(settings.metrics, self.metrics),
        ):
            sender = threading.Thread(target=self._send_results)
            sender.start()
            started(address)
            try:
                while not self._stopped.is_set():
                    self._arrived.clear()
                    if not self._answer_oldest() and not self._stopped.is_set():
                        self._arrived.wait(_IDLE)
            finally:
                self.stop()
                sender.join()

    def _answer_oldest(self) -> bool:
        """Answer the image or series that has waited longest; False if none waits."""
        self._queue.gather()
        image = self._queue.oldest()
        if image is None:
            return False
        began = time.monotonic()
        try:
            (row,) = self._answer([self._item(image)])
            if self._settings.events:
                self._settings.events.add(row)
            if not row["error"]:
                self._queue.remember(image)
            self._queue.answered(image, row["dicom"])
            self._verdicts[row["verdict"] or "unusable"] += 1
            self._seconds += time.monotonic() - began
            self._ready.set()
        except OSError as error:  # a full disk: it stays in the queue
            self._report(f"waiting: {from_os(error).code}: {from_os(error).cause}")
            self._stopped.wait(_IDLE)
        except Exception as error:  # whatever a library raises on one image must not stop the others
            cause = (
                f"{error.code}: {error.cause}"
                if isinstance(error, FedhelpError)
                else f"E_INTERNAL: {type(error).__name__}"
            )
            self._report(f"error: {cause} on one image, which is put aside in 'failed'")
            self._queue.give_up(image)
            self._failed += 1
        return True

    def _item(self, image: Path) -> InputItem:
        """An image, or the volume of a series. Of a damaged one the first file that is not part of a volume."""
        if not image.is_dir():
            return InputItem(image.stem, "", partial(folder.decode, image), image)
        items = [*inputs.list_items([image], self._bundle.facts.image)]
        return next((item for item in items if item.volume), items[0])

    def _send_results(self) -> None:
        """Send results until the node is stopped; whatever fails is tried again, less and less often."""
        wait, last = 1.0, ""
        while not self._stopped.is_set():
            self._ready.clear()
            refused: list[int] = []
            done, problem = 0, ""
            try:
                folders = self._queue.to_send()[:_AT_ONCE]
                if not folders:
                    if not self._stopped.is_set():
                        self._ready.wait(_IDLE)
                    continue
                done = self._sender.send(folders, refused.append)
            except FedhelpError as error:
                problem = f"{error.code}: {error.cause}"
            except OSError as error:
                problem = f"{from_os(error).code}: {from_os(error).cause}"
            except Exception as error:  # whatever pydicom raises on a damaged file must not stop the others
                problem = f"E_INTERNAL: {type(error).__name__} in this program"
            if refused:
                problem = f"E_PACS: the archive does not take a result (status {min(refused):#06x})"
            if problem != last and not self._stopped.is_set():
                self._report(f"waiting: {problem}; the node retries by itself" if problem else "the node continues")
            self._sent += done
            self._refused += len(refused)
            self._is_archive_up = not problem
            last, wait = problem, 1.0 if done else min(2 * wait, self._settings.longest_wait)
            if problem:
                self._stopped.wait(wait)

"""A program that is asked over its standard input and output: `program:COMMAND`, started once and without a shell."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.errors import FileMissingError, SourceAnswerError, SourceStoppedError
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.protocol import Question
from fedhelp_edge.knowledge.source_spec import SourceSpec
from fedhelp_edge.safe_text import visible

_STDERR_TAIL, _STDERR_SHOWN = 4096, 200  # bytes that are kept, letters that an error shows
_POLL = 0.1  # seconds between two looks whether the program still runs
_TIME_TO_END = 5.0  # seconds for a program to end when its input has ended


class ProgramSource(Source):
    """A running program. Each question is one line to it, each answer one line from it."""

    def __init__(self, spec: SourceSpec, classes: Sequence[str], asking: Asking) -> None:
        self._name, self._classes, self._asking = spec.name, classes, asking
        try:
            self._process = subprocess.Popen(
                spec.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=os.name != "nt",  # so that all that it starts ends with it
            )  # fmt: skip
        except FileNotFoundError as error:
            raise FileMissingError(f"{self._name} is not there") from error
        except OSError as error:
            raise SourceStoppedError(f"{self._name} cannot be started: {error.strerror}") from error
        self._complaints = b""
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float64]:
        question = Question.ask(images, self._classes, lambda index: self._asking.image_name(first + index))
        answers = queue.SimpleQueue[bytes]()
        # in a thread: a program that neither reads nor writes, or a child of it, must not hold us up
        talk = threading.Thread(target=lambda: answers.put(self._talk(question)), daemon=True)
        self._threads[1:] = [talk]
        talk.start()
        until = time.monotonic() + self._asking.timeout
        answer = None
        while answer is None:
            with suppress(queue.Empty):
                answer = answers.get(timeout=_POLL)
            if self._process.poll() is not None:
                self._kill()  # what it started has its pipes, and would keep us waiting
            elif answer is None and time.monotonic() > until:
                self._kill()
                raise SourceStoppedError(
                    f"{self._name} gave no answer within {self._asking.timeout:g} seconds",
                    remedy="allow more time with --timeout, or ask about fewer images at once with --batch; saved"
                    " answers are not asked for again",
                )
        if not answer:
            raise SourceStoppedError(f"{self._name} {self._how_it_ended()}")
        try:
            rows, self.model = question.read(answer, self._name)
        except SourceAnswerError:
            self._kill()
            raise
        return rows

    def close(self) -> None:
        if not any(thread.is_alive() for thread in self._threads[1:]):
            self._close(self._process.stdin)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_TIME_TO_END)
        self._kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(_TIME_TO_END)
        if not any(thread.is_alive() for thread in self._threads):  # else something that it started has its pipes
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                self._close(pipe)

    def _talk(self, question: Question) -> bytes:
        """The line that answers a question; nothing where the program has ended."""
        assert self._process.stdin and self._process.stdout  # noqa: S101 - both are pipes
        try:
            self._process.stdin.write(question.line())
            self._process.stdin.flush()
            return self._process.stdout.readline(question.answer_limit + 1)
        except OSError:
            return b""

    def _listen(self) -> None:
        assert self._process.stderr  # noqa: S101 - it is a pipe
        while block := os.read(self._process.stderr.fileno(), _STDERR_TAIL):
            self._complaints = (self._complaints + block)[-_STDERR_TAIL:]

    def _how_it_ended(self) -> str:
        try:
            how = f"ended with exit code {self._process.wait(_TIME_TO_END)}"
        except subprocess.TimeoutExpired:
            how = "closed its output"
        self._threads[0].join(_TIME_TO_END)
        lines = self._complaints.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {visible(last[:_STDERR_SHOWN])}" if last else how

    def _kill(self) -> None:
        with suppress(OSError):
            if os.name == "nt":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)

    @staticmethod
    def _close(pipe: IO[bytes] | None) -> None:
        with suppress(OSError):
            if pipe:
                pipe.close()


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> ProgramSource:
    """The source of `COMMAND`."""
    return ProgramSource(spec, classes, asking)

"""A service that is asked over HTTP: `https://HOST/PATH` (docs/spec/sources.md).

Questions keep to a rate. What is busy or broken is asked again, for a limited time. Every answer is bounded in bytes
and time. No redirect is followed, so images and key reach the named address and no other.
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
import urllib.error
from collections.abc import Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import console
from fedhelp_edge.errors import NotAFrontError, SourceAnswerError, SourceKeyError, SourceStoppedError
from fedhelp_edge.exchange import bounded_http
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.protocol import Question
from fedhelp_edge.knowledge.source_spec import SourceSpec

PATIENCE = 5  # times the timeout, after which a question without an answer ends the build
_RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_SAID_FROM = 5.0  # seconds of a pause from which on a person is told


class _ServiceBusyError(Exception):
    """The service gives no answer now; `after` is its Retry-After in seconds, or 0."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        self.why, self.after = why, after


class ServiceSource(Source):
    """A service, and the pace at which it is asked."""

    def __init__(self, spec: SourceSpec, classes: Sequence[str], asking: Asking) -> None:
        self._name, self._url, self._classes, self._asking = spec.name, spec.text, classes, asking
        self._key = asking.keys.get(spec.origin, "")
        # a proxy would carry what is meant for this machine over the network
        proxies: dict[str, str] | None = {} if spec.is_on_this_machine else None
        self._opener = bounded_http.opener(self._url, asking.ca_file, proxies)
        self._next = 0.0  # when the next request may go

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float64]:
        question = Question.ask(images, self._classes, lambda index: self._asking.image_name(first + index))
        line, backoff = question.line(), bounded_http.Backoff(PATIENCE * self._asking.timeout)
        while True:
            try:
                answer = self._send(line, question.answer_limit)
                break
            except _ServiceBusyError as busy:
                if (pause := backoff.next_pause(busy.after)) is None:
                    asks = f", and asks to wait {busy.after:.0f} seconds" if busy.after else ""
                    raise SourceStoppedError(f"{self._name} {busy.why}{asks}") from busy
                if pause >= _SAID_FROM:
                    console.say(f"{self._name} {busy.why}; the next try is in {pause:.0f} seconds")
                time.sleep(pause)
        rows, model = question.read(answer, self._name)
        if self._key and self._key in model:
            raise SourceAnswerError(f"{self._name} names its model by the key")
        self.model = model
        return rows

    def _send(self, line: bytes, limit: int) -> bytes:
        """The body of the answer to one request."""
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + 60 / self._asking.rate
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        request = bounded_http.LimitedRequest(self._url, line, headers, method="POST")
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        timeout = self._asking.timeout
        request.limits = bounded_http.AnswerLimits(timeout, limit, is_download=False, silence=timeout)
        try:
            with self._opener.open(request, timeout=timeout) as response:
                if response.status != 200:
                    raise SourceAnswerError(f"{self._name} answers with the status {response.status}")
                return bounded_http.read_short(response, limit)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error.code, error.headers.get("Retry-After", "")) from error
        except NotAFrontError as error:
            raise SourceAnswerError(f"{self._name} gives an answer that is longer than possible") from error
        except (urllib.error.URLError, http.client.IncompleteRead, http.client.RemoteDisconnected) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise SourceStoppedError(
                    f"this computer does not trust the certificate of {self._name}",
                    remedy="ask the service for the certificate of its authority and name it with --ca-file",
                ) from error
            raise _ServiceBusyError("cannot be reached, or breaks off its answer") from error
        except (http.client.HTTPException, ValueError, OverflowError) as error:  # a malformed length, for example
            raise SourceAnswerError(f"{self._name} does not speak valid HTTP") from error

    def _refusal(self, status: int, retry_after: str) -> Exception:
        """What a status that is none of success means. Nothing of the service's text is shown: it may hold the key."""
        if status in _RETRY_STATUSES:
            return _ServiceBusyError(f"is busy (status {status})", _seconds(retry_after))
        if status in (401, 403):
            return SourceKeyError(f"{self._name} {'does not accept the key' if self._key else 'asks for a key'}")
        if 300 <= status < 400:
            return SourceAnswerError(
                f"{self._name} redirects to another address, which is not followed",
                remedy="name the address itself as the source, if you trust it with the images and the key",
            )
        if status == 413:
            return SourceAnswerError(
                f"{self._name} refuses so many images at once", remedy="ask about fewer images at once with --batch"
            )
        return SourceAnswerError(f"{self._name} refuses the question with the status {status}")


def _seconds(retry_after: str) -> float:
    """The seconds that a Retry-After asks for, given as seconds or as a date; else 0."""
    if re.fullmatch(r"[0-9]{1,9}", retry_after):
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
        return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
        return 0.0


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> ServiceSource:
    """The source of `http(s)://HOST/PATH`."""
    return ServiceSource(spec, classes, asking)

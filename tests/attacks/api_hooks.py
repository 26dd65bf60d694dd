"""What schemathesis cannot guess: how a body of ours is written, what is there, and how a member signs a request."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import schemathesis

from fedhelp_edge.parcel import keys
from tests.http_front import Client, prologue

SETTING = json.loads(os.environ["FEDHELP_API_TEST"])  # port, federation, keys (a member's), share, hashes
MEMBER = keys.load(Path(SETTING["keys"]), lambda: "")

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Often enough it is about something that is there, so that the answer comes from behind the first checks."""
    share = Path(SETTING["share"])
    data, headers = share.read_bytes(), {}
    at = prologue(data) + random.choice((0, 0, 1, 1000))
    if case.method == "POST" and random.random() < 0.5:
        case.body, headers = data[:at], {"Upload-Length": str(len(data))}
    if case.method == "PATCH" and random.random() < 0.5:
        case.body, headers = data[at : at + random.choice((1, 1000, 100_000))], {"Upload-Offset": str(at)}
    if "hash" in (case.path_parameters or {}) and random.random() < 0.5:
        case.path_parameters = {"hash": random.choice([share.stem, *SETTING["hashes"]])}
    path = case.formatted_path
    if path.startswith(("/v1/current", "/v1/parcels/")):
        client = Client(SETTING["port"], SETTING["federation"])
        headers = client.signature(MEMBER, client.nonce(), case.method, path)
    case.headers = {**(case.headers or {}), **headers}

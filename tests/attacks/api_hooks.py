"""Hooks for schemathesis: valid bodies, existing hashes, and requests with a member's signature."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import schemathesis

from fedhelp_edge.parcel import keys
from tests.http_front import Client, prologue

SETTINGS = json.loads(os.environ["FEDHELP_API_TEST"])  # port, federation, keys (a member's), update, hashes
MEMBER = keys.load(Path(SETTINGS["keys"]), lambda: "")

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Often names existing uploads and parcels, so that the front's later checks are reached."""
    update_path = Path(SETTINGS["update"])
    data, headers = update_path.read_bytes(), {}
    offset = prologue(data) + random.choice((0, 0, 1, 1000))
    if case.method == "POST" and random.random() < 0.5:
        case.body, headers = data[:offset], {"Upload-Length": str(len(data))}
    if case.method == "PATCH" and random.random() < 0.5:
        case.body, headers = data[offset : offset + random.choice((1, 1000, 100_000))], {"Upload-Offset": str(offset)}
    if "hash" in (case.path_parameters or {}) and random.random() < 0.5:
        case.path_parameters = {"hash": random.choice([update_path.stem, *SETTINGS["hashes"]])}
    path = case.formatted_path
    if path.startswith(("/v1/current", "/v1/parcels/")):
        client = Client(SETTINGS["port"], SETTINGS["federation"])
        headers = client.signature(MEMBER, client.nonce(), case.method, path)
    case.headers = {**(case.headers or {}), **headers}

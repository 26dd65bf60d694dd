"""Reads the public test vectors."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.parcel import age

_ROOT = Path(__file__).resolve().parents[3]
FOLDER = (_ROOT / os.environ.get("FEDHELP_DATA", "../shared/data")).parent / "vectors"

needed = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder 'vectors' beside FEDHELP_DATA is not here")

Case = dict[str, Any]


@dataclass(frozen=True)
class AgeVector:
    expect: str
    payload: str  # SHA-256 of the plaintext, in hexadecimal digits
    identities: list[str | age.Passphrase]
    armored: bool
    file: bytes


def age_names() -> list[str]:
    return sorted(path.name for path in FOLDER.glob("age/testdata/*"))


def age_vector(name: str) -> AgeVector:
    header, _, file = (FOLDER / "age/testdata" / name).read_bytes().partition(b"\n\n")
    fields: dict[str, list[str]] = {}
    for line in header.decode().splitlines():
        key, _, value = line.partition(": ")
        fields.setdefault(key, []).append(value)
    return AgeVector(
        expect=fields["expect"][0],
        payload=fields.get("payload", [""])[0],
        identities=[*fields.get("identity", []), *map(age.Passphrase, fields.get("passphrase", []))],
        armored=fields.get("armored") == ["yes"],
        file=zlib.decompress(file) if fields.get("compressed") == ["zlib"] else file,
    )


def wycheproof(name: str) -> Iterator[Case]:
    """Every case of a file with its group's public key, hexadecimal digits turned into bytes."""
    binary = {"pk", "msg", "sig", "private", "public", "shared", "key", "iv", "aad", "ct", "tag", "ikm", "salt", "okm"}
    for group in json.loads((FOLDER / f"wycheproof/{name}.json").read_text())["testGroups"]:
        for test in group["tests"]:
            case = {**test, "info": bytes.fromhex(test.get("info", "")), "pk": group.get("publicKey", {}).get("pk", "")}
            yield {key: bytes.fromhex(value) if key in binary else value for key, value in case.items()}

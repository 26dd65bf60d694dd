"""Uploads: tus 1.0.0 with creation-with-upload and termination, at an address made of the parcel's hash."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from fedhelp_edge.errors import (
    BadMagicError,
    BadRequestError,
    FederationError,
    FedhelpError,
    InviteProofError,
    MediaTypeError,
    NotHereError,
    ParcelKindError,
    PayloadHashError,
    PayloadSizeError,
    QuotaError,
    SignerUnknownError,
    StatementSizeError,
    UploadOffsetError,
    UploadProtocolError,
)
from fedhelp_edge.parcel import parcel, statement
from fedhelp_edge.parcel.statement import Statement
from server_ref.hub.hub import Hub
from server_ref.intake import enrolment, partial, receive
from server_ref.intake.partial import Upload
from server_ref.intake.receive import Answer
from server_ref.web.bodies import announced, body, chunks, whole_number
from server_ref.web.context import Front, front
from server_ref.web.limits import Limits, address
from server_ref.web.problems import status

VERSION = "1.0.0"
FIRST_LIMIT = parcel.PROLOGUE_LIMIT + (64 << 10)  # a request to join comes whole with its first bytes
_BLOCK = 256 << 10  # what is kept in memory of each
_CONTENT = "application/offset+octet-stream"


@dataclass(frozen=True)
class Done:
    """An upload that has ended well."""

    hash: str
    length: int
    receipt: str

    @property
    def offset(self) -> int:
        return self.length


# --- what a site may send ------------------------------------------------------------------------------------------
async def options(_request: Request) -> Response:
    return Response(status_code=204, headers={
        "Tus-Resumable": VERSION, "Tus-Version": VERSION, "Tus-Extension": "creation,creation-with-upload,termination",
    })  # fmt: skip


async def create(request: Request) -> Response:
    """Begin an upload: the first bytes hold the prologue, which is judged before anything is kept."""
    hall = front(request)
    hall.addresses.take(address(request))
    _check_protocol(request)
    _check_media(request)
    length = whole_number(request, "upload-length")
    data = await body(request, FIRST_LIMIT, lambda data: hall.reading.ask(_check_beginning, data))
    async with hall.beginning:
        upload, new = await _begin(hall, data, length)
    code = 201 if new else 200
    if isinstance(upload, Done):
        return _answer(code, upload)
    async with upload.turn():
        return _answer(code, await _finish(hall, upload) if upload.offset == upload.length else upload)


async def _begin(hall: Front, data: bytes, length: int) -> tuple[Upload | Done, bool]:
    said, signers, start, known = await hall.reading.ask(_judge, data)
    if length != start + said.size:
        raise BadRequestError(f"Upload-Length is {length}, but the parcel has {start + said.size} bytes")
    if len(data) > length:
        raise PayloadSizeError("the body is longer than the parcel")
    if known:
        return Done(said.hash, length, known.receipt), False
    if upload := hall.uploads.get(said.hash):
        return upload, False
    if said.kind == "enrol":
        if len(data) < length:  # so that nobody can keep the places of others taken
            raise BadRequestError("a request to join comes whole with its first bytes")
        await _check_invited(hall, said, signers, data[start:])
    hall.senders.take(said.context.get("sender", said.hash))
    _check_open(hall, said)
    now = await hall.reading.ask(_check_room, said, list(hall.uploads.values()), hall.limits)
    upload = await asyncio.to_thread(partial.begin, hall.home, said, length, data, now)
    hall.uploads[said.hash] = upload
    return upload, True


async def append(request: Request) -> Response:
    hall = front(request)
    _check_protocol(request)
    _check_media(request)
    offset = whole_number(request, "upload-offset")
    upload = await _found(request)
    if isinstance(upload, Done):
        return _answer(204, upload)
    hall.senders.take(upload.sender or upload.hash)
    async with upload.turn() as stop:
        if offset != upload.offset:
            raise UploadOffsetError(f"the upload stands at {upload.offset}")
        await _take_in(request, upload, stop)
        return _answer(204, await _finish(hall, upload) if upload.offset == upload.length else upload)


async def _take_in(request: Request, upload: Upload, stop: asyncio.Event) -> None:
    start, block = upload.offset, bytearray()
    left = upload.length - start
    if (announced(request) or 0) > left:
        raise PayloadSizeError(f"only {left} bytes are missing")
    try:
        async for chunk in chunks(request, front(request).limits, stop):
            left -= len(chunk)
            if left < 0:
                block.clear()
                await asyncio.to_thread(upload.go_back, start)
                raise PayloadSizeError("more bytes came than are missing")
            block += chunk
            if len(block) >= _BLOCK:
                data = bytes(block)
                block.clear()
                await asyncio.to_thread(upload.write, data)
    finally:
        if block:  # also where the line broke
            await asyncio.to_thread(upload.write, bytes(block))


async def where(request: Request) -> Response:
    _check_protocol(request)
    upload = await _found(request)
    if isinstance(upload, Done):
        return _answer(200, upload)
    front(request).senders.take(upload.sender or upload.hash)
    async with upload.turn():  # whoever asks will go on from here, so nobody else does
        return _answer(200, upload)


async def cancel(request: Request) -> Response:
    _check_protocol(request)
    upload = await _found(request)
    if isinstance(upload, Done):
        raise NotHereError("this upload has ended")
    async with upload.turn():
        await asyncio.to_thread(_end, front(request), upload)
    return Response(status_code=204, headers={"Tus-Resumable": VERSION})


# --- judged with the hub -------------------------------------------------------------------------------------------
def _judge(hub: Hub, data: bytes) -> tuple[Statement, tuple[str, ...], int, Answer | None]:
    """What is to come, who signed it, where its payload begins, and the answer if it came before."""
    file = io.BytesIO(data)
    said, signers = parcel.read_prologue(file)
    known, _ = receive.greet(hub, said, signers)
    return said, signers, file.tell(), known


def _check_beginning(hub: Hub, data: bytes) -> bool:
    """Refuse a body as soon as it cannot be for us and from one of us, before a signature is worth verifying.

    False while its statement is not all there.
    """
    magic, line = data[: len(parcel.MAGIC)], data[len(parcel.MAGIC) :]
    if not parcel.MAGIC.startswith(magic):
        raise BadMagicError("not a parcel")
    line, found, _ = line.partition(b"\n")
    if len(line) > parcel.STATEMENT_LIMIT:
        raise StatementSizeError(f"the statement is longer than {parcel.STATEMENT_LIMIT} bytes")
    if not found:
        return False
    said = statement.parse(line)
    if said.kind not in ("update", "enrol", "rotate"):
        raise ParcelKindError(f"a site does not send a {said.kind}")
    if said.context["federation"] != hub.federation:
        raise FederationError(f"made for {said.context['federation']}")
    if said.kind != "enrol" and not hub.roster.site(said.context["sender"]):
        raise SignerUnknownError("the sender is not in the roster")
    return True


async def _check_invited(hall: Front, said: Statement, signers: tuple[str, ...], payload: bytes) -> None:
    """Whether a request to join proves an invite, before a byte of it is written.

    Whoever knows an invite but not its code may try few codes an hour, and takes no try from the site that knows it.
    """
    if hashlib.sha256(payload).hexdigest() != said.sha256:
        raise PayloadHashError("the payload is not the one that was signed")
    holds = parcel.read_json(payload)
    try:
        await hall.reading.ask(enrolment.check_invite, said, signers, holds)
    except InviteProofError:
        hall.guesses.take(holds["invite"])
        raise
    hall.invites.take(holds["invite"])


def _check_open(hall: Front, said: Statement) -> None:
    sender = said.context.get("sender", "")
    others = [one for one in hall.uploads.values() if one.sender == sender]
    most = hall.limits.open_uploads if sender else hall.limits.open_requests
    if len(others) >= most:
        raise QuotaError(f"{len(others)} uploads are open")


def _check_room(hub: Hub, said: Statement, uploads: list[Upload], limits: Limits) -> datetime:
    """Whether there is room and time for it; the time that it is now."""
    now = hub.now
    if said.kind == "update":
        partial.check_time(hub, said, now)
        site, round_ = said.context["sender"], said.context["round"]
        coming = sum(one.length for one in uploads if one.sender == site and one.said.context.get("round") == round_)
        receive.check_room(hub, said, hub.tasks(round_)[round_].limit, coming)
        return now
    waiting = hub.store.row("SELECT count(*) AS count FROM requests WHERE state = 'waiting'")
    if waiting and waiting["count"] >= limits.waiting_requests:
        raise QuotaError("too many requests wait for the coordinator")
    return now


async def _finish(hall: Front, upload: Upload) -> Done:
    """All is there: judge it again, since much may have changed, and keep it. On our own trouble the upload stays."""
    try:
        answer = await hall.writing.ask(_keep, upload)
    except FedhelpError as fault:
        if status(fault) < 500:
            await asyncio.to_thread(_end, hall, upload)
        raise
    _end(hall, upload)
    return Done(upload.hash, upload.length, answer.receipt)


def _keep(hub: Hub, upload: Upload) -> Answer:
    partial.check_time(hub, upload.said, upload.begun)
    os.utime(upload.path)  # however long ago its last byte came, it is no leftover
    return receive.keep(hub, upload.path)


def _end(hall: Front, upload: Upload) -> None:
    upload.end()
    hall.uploads.pop(upload.hash, None)


async def recover(hall: Front) -> None:
    """After a start: go on with what an earlier front left, and finish what was whole."""
    for upload in await asyncio.to_thread(partial.found, (hall.home / partial.FOLDER).resolve(), own=True):
        hall.uploads[upload.hash] = upload
    for upload in list(hall.uploads.values()):
        if upload.offset == upload.length:
            try:
                await _finish(hall, upload)
            except FedhelpError:
                continue  # its sender is told so when it comes back
    await sweep(hall)


async def sweep(hall: Front) -> None:
    """Forget uploads that nobody goes on with."""
    now = await hall.reading.ask(lambda hub: hub.now)
    for upload in list(hall.uploads.values()):
        if partial.is_old(upload, now):
            _end(hall, upload)


# --- answers -------------------------------------------------------------------------------------------------------
async def _found(request: Request) -> Upload | Done:
    hash_ = request.path_params["hash"]
    if upload := front(request).uploads.get(hash_):
        return upload
    front(request).addresses.take(address(request))
    done = await front(request).reading.ask(_kept, hash_)
    if done is None:
        raise NotHereError("there is no such upload")
    return done


def _kept(hub: Hub, hash_: str) -> Done | None:
    row = hub.store.row("SELECT line FROM parcels WHERE hash = ? AND kind IN ('update', 'enrol', 'rotate')", hash_)
    answer = receive.already(hub, statement.parse(row["line"].encode())) if row else None
    return Done(hash_, hub.store.path(hash_).stat().st_size, answer.receipt) if answer else None


def _check_protocol(request: Request) -> None:
    if request.headers.get("tus-resumable") != VERSION:
        raise UploadProtocolError("the request does not say Tus-Resumable: 1.0.0")


def _check_media(request: Request) -> None:
    if request.headers.get("content-type") != _CONTENT or "content-encoding" in request.headers:
        raise MediaTypeError("the body is not declared as plain application/offset+octet-stream")


def _answer(code: int, upload: Upload | Done) -> Response:
    headers = {
        "Tus-Resumable": VERSION, "Cache-Control": "no-store", "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.length),
    }  # fmt: skip
    if code in (200, 201):  # as seen from the address that uploads are created at
        headers["Location"] = f"uploads/{upload.hash}"
    if isinstance(upload, Done):
        headers["Fedhelp-Receipt"] = upload.receipt
    return Response(status_code=code, headers=headers)

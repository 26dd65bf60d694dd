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
from server_ref.intake.partial import PartialUpload
from server_ref.intake.receive import IntakeResult
from server_ref.web.bodies import content_length, integer_header, read_body, read_chunks
from server_ref.web.context import Front, get_front
from server_ref.web.limits import Limits, client_address
from server_ref.web.problems import status_code

TUS_VERSION = "1.0.0"
MAX_FIRST_BYTES = parcel.PROLOGUE_LIMIT + (64 << 10)  # a request to join comes whole with its first bytes
_BLOCK_BYTES = 256 << 10  # what is kept in memory of each
_MEDIA_TYPE = "application/offset+octet-stream"


@dataclass(frozen=True)
class FinishedUpload:
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
        "Tus-Resumable": TUS_VERSION, "Tus-Version": TUS_VERSION, "Tus-Extension": "creation,creation-with-upload,termination",
    })  # fmt: skip


async def create(request: Request) -> Response:
    """Begin an upload: the first bytes hold the prologue, which is judged before anything is kept."""
    front = get_front(request)
    front.address_rate.take(client_address(request))
    _check_protocol(request)
    _check_media_type(request)
    length = integer_header(request, "upload-length")
    data = await read_body(request, MAX_FIRST_BYTES, lambda data: front.reading.ask(_check_statement, data))
    async with front.creation_lock:
        upload, is_new = await _create(front, data, length)
    code = 201 if is_new else 200
    if isinstance(upload, FinishedUpload):
        return _tus_response(code, upload)
    async with upload.turn():
        return _tus_response(code, await _finish(front, upload) if upload.offset == upload.length else upload)


async def _create(front: Front, data: bytes, length: int) -> tuple[PartialUpload | FinishedUpload, bool]:
    upload_statement, signers, payload_start, earlier = await front.reading.ask(_preflight, data)
    if length != payload_start + upload_statement.size:
        raise BadRequestError(
            f"Upload-Length is {length}, but the parcel has {payload_start + upload_statement.size} bytes"
        )
    if len(data) > length:
        raise PayloadSizeError("the body is longer than the parcel")
    if earlier:
        return FinishedUpload(upload_statement.hash, length, earlier.receipt), False
    if upload := front.uploads.get(upload_statement.hash):
        return upload, False
    if upload_statement.kind == "enrol":
        if len(data) < length:  # so that nobody can keep the places of others taken
            raise BadRequestError("a request to join comes whole with its first bytes")
        await _check_invite(front, upload_statement, signers, data[payload_start:])
    front.sender_rate.take(upload_statement.context.get("sender", upload_statement.hash))
    _check_open_uploads(front, upload_statement)
    now = await front.reading.ask(_check_quota, upload_statement, list(front.uploads.values()), front.limits)
    upload = await asyncio.to_thread(partial.begin, front.home, upload_statement, length, data, now)
    front.uploads[upload_statement.hash] = upload
    return upload, True


async def append(request: Request) -> Response:
    front = get_front(request)
    _check_protocol(request)
    _check_media_type(request)
    offset = integer_header(request, "upload-offset")
    upload = await _find(request)
    if isinstance(upload, FinishedUpload):
        return _tus_response(204, upload)
    front.sender_rate.take(upload.sender or upload.hash)
    async with upload.turn() as stop:
        if offset != upload.offset:
            raise UploadOffsetError(f"the upload stands at {upload.offset}")
        await _receive_chunks(request, upload, stop)
        return _tus_response(204, await _finish(front, upload) if upload.offset == upload.length else upload)


async def _receive_chunks(request: Request, upload: PartialUpload, stop: asyncio.Event) -> None:
    start, block = upload.offset, bytearray()
    remaining = upload.length - start
    if (content_length(request) or 0) > remaining:
        raise PayloadSizeError(f"only {remaining} bytes are missing")
    try:
        async for chunk in read_chunks(request, get_front(request).limits, stop):
            remaining -= len(chunk)
            if remaining < 0:
                block.clear()
                await asyncio.to_thread(upload.truncate, start)
                raise PayloadSizeError("more bytes came than are missing")
            block += chunk
            if len(block) >= _BLOCK_BYTES:
                data = bytes(block)
                block.clear()
                await asyncio.to_thread(upload.write, data)
    finally:
        if block:  # also where the line broke
            await asyncio.to_thread(upload.write, bytes(block))


async def show_offset(request: Request) -> Response:
    _check_protocol(request)
    upload = await _find(request)
    if isinstance(upload, FinishedUpload):
        return _tus_response(200, upload)
    get_front(request).sender_rate.take(upload.sender or upload.hash)
    async with upload.turn():  # whoever asks will go on from here, so nobody else does
        return _tus_response(200, upload)


async def cancel(request: Request) -> Response:
    _check_protocol(request)
    upload = await _find(request)
    if isinstance(upload, FinishedUpload):
        raise NotHereError("this upload has ended")
    async with upload.turn():
        await asyncio.to_thread(_discard, get_front(request), upload)
    return Response(status_code=204, headers={"Tus-Resumable": TUS_VERSION})


# --- judged with the hub -------------------------------------------------------------------------------------------
def _preflight(hub: Hub, data: bytes) -> tuple[Statement, tuple[str, ...], int, IntakeResult | None]:
    """What is to come, who signed it, where its payload begins, and the answer if it came before."""
    file = io.BytesIO(data)
    upload_statement, signers = parcel.read_prologue(file)
    earlier, _ = receive.preflight(hub, upload_statement, signers)
    return upload_statement, signers, file.tell(), earlier


def _check_statement(hub: Hub, data: bytes) -> bool:
    """Refuse a body as soon as it cannot be for us and from one of us, before a signature is worth verifying.

    False while its statement is not all there.
    """
    magic, line = data[: len(parcel.MAGIC)], data[len(parcel.MAGIC) :]
    if not parcel.MAGIC.startswith(magic):
        raise BadMagicError("not a parcel")
    line, newline, _ = line.partition(b"\n")
    if len(line) > parcel.STATEMENT_LIMIT:
        raise StatementSizeError(f"the statement is longer than {parcel.STATEMENT_LIMIT} bytes")
    if not newline:
        return False
    upload_statement = statement.parse(line)
    if upload_statement.kind not in ("update", "enrol", "rotate"):
        raise ParcelKindError(f"a site does not send a {upload_statement.kind}")
    if upload_statement.context["federation"] != hub.federation:
        raise FederationError(f"made for {upload_statement.context['federation']}")
    if upload_statement.kind != "enrol" and not hub.roster.site(upload_statement.context["sender"]):
        raise SignerUnknownError("the sender is not in the roster")
    return True


async def _check_invite(front: Front, upload_statement: Statement, signers: tuple[str, ...], payload: bytes) -> None:
    """Whether a request to join proves an invite, before a byte of it is written.

    Whoever knows an invite but not its code may try few codes an hour, and takes no try from the site that knows it.
    """
    if hashlib.sha256(payload).hexdigest() != upload_statement.sha256:
        raise PayloadHashError("the payload is not the one that was signed")
    request_body = parcel.read_json(payload)
    try:
        await front.reading.ask(enrolment.check_invite, upload_statement, signers, request_body)
    except InviteProofError:
        front.guess_rate.take(request_body["invite"])
        raise
    front.invites.take(request_body["invite"])


def _check_open_uploads(front: Front, upload_statement: Statement) -> None:
    sender = upload_statement.context.get("sender", "")
    open_uploads = [upload for upload in front.uploads.values() if upload.sender == sender]
    limit = front.limits.open_uploads if sender else front.limits.open_requests
    if len(open_uploads) >= limit:
        raise QuotaError(f"{len(open_uploads)} uploads are open")


def _check_quota(hub: Hub, upload_statement: Statement, uploads: list[PartialUpload], limits: Limits) -> datetime:
    """Whether there is room and time for it; the time that it is now."""
    now = hub.now
    if upload_statement.kind == "update":
        partial.check_deadline(hub, upload_statement, now)
        site, round_ = upload_statement.context["sender"], upload_statement.context["round"]
        incoming_bytes = sum(
            upload.length for upload in uploads if upload.sender == site and upload.said.context.get("round") == round_
        )
        receive.check_quota(hub, upload_statement, hub.tasks(round_)[round_].limit, incoming_bytes)
        return now
    waiting = hub.database.row("SELECT count(*) AS count FROM requests WHERE state = 'waiting'")
    if waiting and waiting["count"] >= limits.waiting_requests:
        raise QuotaError("too many requests wait for the coordinator")
    return now


async def _finish(front: Front, upload: PartialUpload) -> FinishedUpload:
    """All is there: judge it again, since much may have changed, and keep it. On our own trouble the upload stays."""
    try:
        result = await front.writing.ask(_store, upload)
    except FedhelpError as error:
        if status_code(error) < 500:
            await asyncio.to_thread(_discard, front, upload)
        raise
    _discard(front, upload)
    return FinishedUpload(upload.hash, upload.length, result.receipt)


def _store(hub: Hub, upload: PartialUpload) -> IntakeResult:
    partial.check_deadline(hub, upload.said, upload.started)
    os.utime(upload.path)  # however long ago its last byte came, it is no leftover
    return receive.store_received(hub, upload.path)


def _discard(front: Front, upload: PartialUpload) -> None:
    upload.end()
    front.uploads.pop(upload.hash, None)


async def resume_all(front: Front) -> None:
    """After a start: go on with what an earlier front left, and finish what was whole."""
    for upload in await asyncio.to_thread(partial.uploads_in, (front.home / partial.FOLDER).resolve(), is_owner=True):
        front.uploads[upload.hash] = upload
    for upload in list(front.uploads.values()):
        if upload.offset == upload.length:
            try:
                await _finish(front, upload)
            except FedhelpError:
                continue  # its sender is told so when it comes back
    await discard_abandoned(front)


async def discard_abandoned(front: Front) -> None:
    """Forget uploads that nobody goes on with."""
    now = await front.reading.ask(lambda hub: hub.now)
    for upload in list(front.uploads.values()):
        if partial.is_abandoned(upload, now):
            _discard(front, upload)


# --- answers -------------------------------------------------------------------------------------------------------
async def _find(request: Request) -> PartialUpload | FinishedUpload:
    hash_ = request.path_params["hash"]
    if upload := get_front(request).uploads.get(hash_):
        return upload
    get_front(request).address_rate.take(client_address(request))
    finished = await get_front(request).reading.ask(_find_finished, hash_)
    if finished is None:
        raise NotHereError("there is no such upload")
    return finished


def _find_finished(hub: Hub, hash_: str) -> FinishedUpload | None:
    row = hub.database.row("SELECT line FROM parcels WHERE hash = ? AND kind IN ('update', 'enrol', 'rotate')", hash_)
    result = receive.earlier_result(hub, statement.parse(row["line"].encode())) if row else None
    return FinishedUpload(hash_, hub.database.path(hash_).stat().st_size, result.receipt) if result else None


def _check_protocol(request: Request) -> None:
    if request.headers.get("tus-resumable") != TUS_VERSION:
        raise UploadProtocolError("the request does not say Tus-Resumable: 1.0.0")


def _check_media_type(request: Request) -> None:
    if request.headers.get("content-type") != _MEDIA_TYPE or "content-encoding" in request.headers:
        raise MediaTypeError("the body is not declared as plain application/offset+octet-stream")


def _tus_response(code: int, upload: PartialUpload | FinishedUpload) -> Response:
    headers = {
        "Tus-Resumable": TUS_VERSION, "Cache-Control": "no-store", "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.length),
    }  # fmt: skip
    if code in (200, 201):  # as seen from the address that uploads are created at
        headers["Location"] = f"uploads/{upload.hash}"
    if isinstance(upload, FinishedUpload):
        headers["Fedhelp-Receipt"] = upload.receipt
    return Response(status_code=code, headers=headers)

"""Uploads: tus 1.0.0 with creation-with-upload and termination. An upload's address is the parcel's hash."""

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
from fedhelp_edge.safe_text import counted
from server_ref.hub.hub import Hub
from server_ref.hub.tables import parcels_table, requests_table
from server_ref.intake import enrolment, partial_uploads, receive
from server_ref.intake.partial_uploads import PartialUpload
from server_ref.intake.receive import IntakeResult
from server_ref.web.bodies import content_length, integer_header, read_body, read_chunks
from server_ref.web.context import Front, get_front
from server_ref.web.limits import Limits, client_address
from server_ref.web.problems import status_code

TUS_VERSION = "1.0.0"
MAX_FIRST_BYTES = parcel.PROLOGUE_LIMIT + (64 << 10)  # a request to join comes whole in the first request
_BLOCK_BYTES = 256 << 10  # held in memory for each upload
_MEDIA_TYPE = "application/offset+octet-stream"


@dataclass(frozen=True)
class FinishedUpload:
    """An upload that the hub has received, with the hash of its receipt."""

    hash: str
    length: int
    receipt: str

    @property
    def offset(self) -> int:
        return self.length


# --- endpoints ------------------------------------------------------------------------------------------
async def options(_request: Request) -> Response:
    """Answer which version and extensions of tus the front supports."""
    return Response(status_code=204, headers={
        "Tus-Resumable": TUS_VERSION, "Tus-Version": TUS_VERSION,
        "Tus-Extension": "creation,creation-with-upload,termination",
    })  # fmt: skip


async def create(request: Request) -> Response:
    """Begin an upload. Its first bytes hold the prologue, which is judged before anything is stored."""
    front = get_front(request)
    front.address_rate.take(client_address(request))
    _check_protocol(request)
    _check_media_type(request)
    length = integer_header(request, "upload-length")
    data = await read_body(request, MAX_FIRST_BYTES, lambda data: front.reading.run(_check_statement, data))
    async with front.creation_lock:
        upload, is_new = await _create(front, data, length)
    code = 201 if is_new else 200
    if isinstance(upload, FinishedUpload):
        return _tus_response(code, upload)
    async with upload.take_turn():
        return _tus_response(code, await _finish(front, upload) if upload.offset == upload.length else upload)


async def _create(front: Front, data: bytes, length: int) -> tuple[PartialUpload | FinishedUpload, bool]:
    upload_statement, signers, payload_start, earlier = await front.reading.run(_preflight, data)
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
        if len(data) < length:  # so that nobody can block the places of others
            raise BadRequestError("a request to join must come whole in the first request")
        await _check_invite(front, upload_statement, signers, data[payload_start:])
    front.sender_rate.take(partial_uploads.sender_of(upload_statement) or upload_statement.hash)
    _check_open_uploads(front, upload_statement)
    now = await front.reading.run(_check_quota, upload_statement, list(front.uploads.values()), front.limits)
    upload = await asyncio.to_thread(partial_uploads.begin, front.home, upload_statement, length, data, now)
    front.uploads[upload_statement.hash] = upload
    return upload, True


async def append(request: Request) -> Response:
    """Append bytes to an upload at its offset. The last byte finishes it."""
    front = get_front(request)
    _check_protocol(request)
    _check_media_type(request)
    offset = integer_header(request, "upload-offset")
    upload = await _find(request)
    if isinstance(upload, FinishedUpload):
        return _tus_response(204, upload)
    front.sender_rate.take(upload.sender or upload.hash)
    async with upload.take_turn() as stop:
        if offset != upload.offset:
            raise UploadOffsetError(f"the upload is at offset {upload.offset}")
        await _receive_chunks(request, upload, stop)
        return _tus_response(204, await _finish(front, upload) if upload.offset == upload.length else upload)


async def _receive_chunks(request: Request, upload: PartialUpload, stop: asyncio.Event) -> None:
    start, block = upload.offset, bytearray()
    remaining = upload.length - start
    if (content_length(request) or 0) > remaining:
        raise PayloadSizeError(f"only {counted(remaining, 'byte is', 'bytes are')} missing")
    try:
        async for chunk in read_chunks(request, get_front(request).limits, stop):
            remaining -= len(chunk)
            if remaining < 0:
                block.clear()
                await asyncio.to_thread(upload.truncate, start)
                raise PayloadSizeError("the request has more bytes than are missing")
            block += chunk
            if len(block) >= _BLOCK_BYTES:
                data = bytes(block)
                block.clear()
                await asyncio.to_thread(upload.write, data)
    finally:
        if block:  # also after a lost connection
            await asyncio.to_thread(upload.write, bytes(block))


async def show_offset(request: Request) -> Response:
    """Answer at which offset the client continues."""
    _check_protocol(request)
    upload = await _find(request)
    if isinstance(upload, FinishedUpload):
        return _tus_response(200, upload)
    get_front(request).sender_rate.take(upload.sender or upload.hash)
    async with upload.take_turn():  # ends an older request: the asking client continues from this offset
        return _tus_response(200, upload)


async def cancel(request: Request) -> Response:
    """Delete an upload that is not finished."""
    _check_protocol(request)
    upload = await _find(request)
    if isinstance(upload, FinishedUpload):
        raise NotHereError("this upload has ended")
    async with upload.take_turn():
        await asyncio.to_thread(_discard, get_front(request), upload)
    return Response(status_code=204, headers={"Tus-Resumable": TUS_VERSION})


# --- checks against the hub -------------------------------------------------------------------------------------------
def _preflight(hub: Hub, data: bytes) -> tuple[Statement, tuple[str, ...], int, IntakeResult | None]:
    """The statement, its signers, where the payload begins, and the earlier result if the parcel is here already."""
    file = io.BytesIO(data)
    upload_statement, signers = parcel.read_prologue(file)
    earlier, _ = receive.preflight(hub, upload_statement, signers)
    return upload_statement, signers, file.tell(), earlier


def _check_statement(hub: Hub, data: bytes) -> bool:
    """Raise as soon as a body cannot be from this federation, before a signature needs to be verified.

    Returns False while the statement is incomplete.
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
    if upload_statement.kind not in ("update", "enrol", "rotate", "sum"):
        raise ParcelKindError(f"a site does not send a {upload_statement.kind}")
    if upload_statement.context["federation"] != hub.federation:
        raise FederationError(f"the parcel is for {upload_statement.context['federation']}")
    if upload_statement.kind in ("update", "rotate") and not hub.roster.site(upload_statement.context["sender"]):
        raise SignerUnknownError("the sender is not in the roster")
    return True


async def _check_invite(front: Front, upload_statement: Statement, signers: tuple[str, ...], payload: bytes) -> None:
    """Raise unless a request to join proves an invite's code. Call it before a byte of it is written.

    An attacker who knows an invite's id but not its code can try few codes an hour, and uses up no try of the site.
    """
    if hashlib.sha256(payload).hexdigest() != upload_statement.sha256:
        raise PayloadHashError("the payload is not the signed one")
    request_body = parcel.read_json(payload)
    try:
        await front.reading.run(enrolment.check_invite, upload_statement, signers, request_body)
    except InviteProofError:
        front.guess_rate.take(request_body["invite"])
        raise
    front.invite_rate.take(request_body["invite"])


def _check_open_uploads(front: Front, upload_statement: Statement) -> None:
    sender = partial_uploads.sender_of(upload_statement)
    open_uploads = [upload for upload in front.uploads.values() if upload.sender == sender]
    limit = front.limits.open_uploads if sender else front.limits.open_requests
    if len(open_uploads) >= limit:
        raise QuotaError(f"{counted(len(open_uploads), 'upload is', 'uploads are')} open")


def _check_quota(hub: Hub, upload_statement: Statement, uploads: list[PartialUpload], limits: Limits) -> datetime:
    """Raise if the upload comes too late or there is no room for it. Returns the time that was compared."""
    now = hub.now
    if upload_statement.kind == "update":
        partial_uploads.check_deadline(hub, upload_statement, now)
        site, round_ = upload_statement.context["sender"], upload_statement.context["round"]
        incoming_bytes = sum(
            upload.length
            for upload in uploads
            if upload.sender == site and upload.statement.context.get("round") == round_
        )
        receive.check_quota(hub, upload_statement, hub.tasks(round_)[round_].limit, incoming_bytes)
    elif upload_statement.kind != "sum" and requests_table.count_waiting(hub.database) >= limits.waiting_requests:
        raise QuotaError("too many requests wait for the coordinator")
    return now


async def _finish(front: Front, upload: PartialUpload) -> FinishedUpload:
    """Judge a complete upload again, since much may have changed, and store it. The hub's own errors keep it."""
    try:
        result = await front.writing.run(_store, upload)
    except FedhelpError as error:
        if status_code(error) < 500:
            await asyncio.to_thread(_discard, front, upload)
        raise
    _discard(front, upload)
    return FinishedUpload(upload.hash, upload.length, result.receipt)


def _store(hub: Hub, upload: PartialUpload) -> IntakeResult:
    partial_uploads.check_deadline(hub, upload.statement, upload.started)
    os.utime(upload.path)  # however old its last byte is, it is not abandoned
    return receive.store_received(hub, upload.path)


def _discard(front: Front, upload: PartialUpload) -> None:
    upload.discard()
    front.uploads.pop(upload.hash, None)


async def resume_all(front: Front) -> None:
    """After a start: load the uploads that an earlier front left, and finish the complete ones."""
    for upload in await asyncio.to_thread(
        partial_uploads.in_folder, (front.home / partial_uploads.FOLDER).resolve(), is_owner=True
    ):
        front.uploads[upload.hash] = upload
    for upload in list(front.uploads.values()):
        if upload.offset == upload.length:
            try:
                await _finish(front, upload)
            except FedhelpError:
                continue  # its sender gets the error when it comes back
    await discard_abandoned(front)


async def discard_abandoned(front: Front) -> None:
    """Discard uploads that nobody continues."""
    now = await front.reading.run(lambda hub: hub.now)
    for upload in list(front.uploads.values()):
        if partial_uploads.is_abandoned(upload, now):
            _discard(front, upload)


# --- responses -------------------------------------------------------------------------------------------------------
async def _find(request: Request) -> PartialUpload | FinishedUpload:
    hash_ = request.path_params["hash"]
    if upload := get_front(request).uploads.get(hash_):
        return upload
    get_front(request).address_rate.take(client_address(request))
    finished = await get_front(request).reading.run(_find_finished, hash_)
    if finished is None:
        raise NotHereError("there is no such upload")
    return finished


def _find_finished(hub: Hub, hash_: str) -> FinishedUpload | None:
    line = parcels_table.line_from_site(hub.database, hash_)
    result = receive.earlier_result(hub, statement.parse(line.encode())) if line else None
    return FinishedUpload(hash_, hub.database.parcel_path(hash_).stat().st_size, result.receipt) if result else None


def _check_protocol(request: Request) -> None:
    if request.headers.get("tus-resumable") != TUS_VERSION:
        raise UploadProtocolError("the request lacks the header Tus-Resumable: 1.0.0")


def _check_media_type(request: Request) -> None:
    if request.headers.get("content-type") != _MEDIA_TYPE or "content-encoding" in request.headers:
        raise MediaTypeError("the body must be application/offset+octet-stream, without an encoding")


def _tus_response(code: int, upload: PartialUpload | FinishedUpload) -> Response:
    headers = {
        "Tus-Resumable": TUS_VERSION, "Cache-Control": "no-store", "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.length),
    }  # fmt: skip
    if code in (200, 201):  # relative to the address that creates uploads
        headers["Location"] = f"uploads/{upload.hash}"
    if isinstance(upload, FinishedUpload):
        headers["Fedhelp-Receipt"] = upload.receipt
    return Response(status_code=code, headers=headers)

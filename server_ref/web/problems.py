"""Responses to refused requests: RFC 9457 problem details with a code and a remedy."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse, Response

from fedhelp_edge import errors
from fedhelp_edge.errors import (
    FedhelpError,
    RateLimitError,
)

_STATUS_CODES: dict[type[FedhelpError], int] = {  # of an error class and its subclasses
    errors.ParcelError: 400,
    errors.StatementSizeError: 413,
    errors.PayloadSizeError: 413,
    errors.SigBadError: 401,
    errors.SigNamespaceError: 401,
    errors.AgeError: 400,
    errors.TrustError: 409,
    errors.RoundClosedError: 410,
    errors.SignerUnknownError: 401,
    errors.SignerMismatchError: 403,
    errors.SignerRevokedError: 403,
    errors.SignerWindowError: 403,
    errors.SignerRoleError: 403,
    errors.ParcelKindError: 403,
    errors.InviteUnknownError: 403,
    errors.QuotaError: 429,
    errors.DuplicateRoundError: 409,
    errors.NotNowError: 409,
    errors.BusyError: 503,
    errors.ClockJumpError: 503,
    errors.NoSpaceError: 507,
    errors.BadRequestError: 400,
    errors.UnsignedError: 401,
    errors.NonceError: 401,
    errors.DashboardLinkError: 403,
    errors.NotHereError: 404,
    errors.HttpMethodError: 405,
    errors.SlowError: 408,
    errors.UploadOffsetError: 409,
    errors.UploadProtocolError: 412,
    errors.MediaTypeError: 415,
    errors.BytesRangeError: 416,
    errors.RateLimitError: 429,
    errors.RequestHeadersError: 431,
}


def status_code(error: FedhelpError) -> int:
    """The HTTP status of an error."""
    return next((_STATUS_CODES[kind] for kind in type(error).__mro__ if kind in _STATUS_CODES), 500)


def problem_details(error: FedhelpError) -> dict[str, Any]:
    """The JSON body of a refusal."""
    return {
        "type": "about:blank", "title": (type(error).__doc__ or "").strip(), "status": status_code(error),
        "code": error.code, "detail": error.cause, "remedy": error.remedy,
    }  # fmt: skip


def problem_response(error: FedhelpError, nonce: str = "") -> Response:
    """The response to a refused request. A `nonce` lets an unauthenticated client sign its next one."""
    headers = {"Cache-Control": "no-store"}
    if status_code(error) == 401 and nonce:
        headers |= {"WWW-Authenticate": "SSHSIG", "Fedhelp-Nonce": nonce}
    if isinstance(error, RateLimitError):
        headers["Retry-After"] = str(math.ceil(error.seconds))
    if isinstance(error, errors.BusyError):
        headers["Retry-After"] = "5"
    if isinstance(error, errors.UploadProtocolError):
        headers["Tus-Version"] = "1.0.0"
    return JSONResponse(problem_details(error), status_code(error), headers, "application/problem+json")

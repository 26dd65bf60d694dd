"""The front's HTTP API as OpenAPI 3.1, for programs; docs/spec/http.md describes it for people."""

from __future__ import annotations

from typing import Any

from fedhelp_edge import __version__

_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_WHOLE_NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
_UPLOAD_BODY = {"application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_PROBLEM = {"$ref": "#/components/responses/Problem"}
_MEMBER: list[dict[str, list[str]]] = [{"member": []}]


def _header(name: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": schema}


_TUS_HEADER = _header("Tus-Resumable", {"const": "1.0.0"})
_HASH_PARAMETER = {"name": "hash", "in": "path", "required": True, "schema": _HASH}
_PARCELS = {
    "type": "object",
    "required": ["parcels"],
    "properties": {
        "parcels": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["hash", "kind", "number", "size"],
                "properties": {
                    "hash": _HASH,
                    "kind": {"type": "string"},
                    "number": _WHOLE_NUMBER,
                    "size": _WHOLE_NUMBER,
                },
            },
        }
    },
}


_CHARTER_PROOF = {"type": "object", "required": ["vouch"], "properties": {"vouch": _HASH}}


def _operation(summary: str, responses: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"summary": summary, "responses": {**responses, "default": _PROBLEM}, **fields}


def _json_response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _response(description: str) -> dict[str, Any]:
    return {"description": description}


_UPLOAD_RESPONSES = {"200": _response("It exists already."), "201": _response("It was created, and may be complete.")}
_OPTIONS = _operation("The supported version of tus", {"204": _response("In the headers.")})
_PARCEL_BODY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "fedhelp-edge hub", "version": __version__},
    "paths": {
        "/healthz": {
            "get": _operation(
                "Whether the hub works",
                {"200": _json_response("It works.", {"type": "object", "required": ["status"]})},
            )
        },
        "/v1/charters": {
            "get": _operation("Every version of the charter", {"200": _json_response("Oldest first.", _PARCELS)})
        },
        "/v1/vouches/{invite}": {
            "parameters": [
                {
                    "name": "invite",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
                }
            ],
            "get": _operation(
                "Proof that the hub knows an invite's code", {"200": _json_response("The proof.", _CHARTER_PROOF)}
            ),
        },
        "/v1/current": {
            "get": _operation(
                "What this site may need",
                {"200": _json_response("In the order to read them.", _PARCELS)},
                security=_MEMBER,
            )
        },
        "/v1/parcels/{hash}": {
            "parameters": [_HASH_PARAMETER],
            "get": _operation(
                "A parcel",
                {
                    "200": {"description": "The whole parcel.", "content": _PARCEL_BODY},
                    "206": {"description": "The requested range.", "content": _PARCEL_BODY},
                    "304": _response("The client has it already."),
                },
                parameters=[
                    _header(name, {"type": "string"}, required=False) for name in ("Range", "If-Range", "If-None-Match")
                ],
                security=[{}, *_MEMBER],
            ),
        },
        "/v1/uploads": {
            "post": _operation(
                "Create an upload",
                _UPLOAD_RESPONSES,
                parameters=[_TUS_HEADER, _header("Upload-Length", _WHOLE_NUMBER)],
                requestBody={"required": True, "content": _UPLOAD_BODY},
            ),
            "options": _OPTIONS,
        },
        "/v1/uploads/{hash}": {
            "parameters": [_HASH_PARAMETER],
            "head": _operation(
                "The offset of an upload", {"200": _response("In Upload-Offset.")}, parameters=[_TUS_HEADER]
            ),
            "patch": _operation(
                "Append bytes",
                {"204": _response("They are stored.")},
                parameters=[_TUS_HEADER, _header("Upload-Offset", _WHOLE_NUMBER)],
                requestBody={"required": True, "content": _UPLOAD_BODY},
            ),
            "delete": _operation("Delete an upload", {"204": _response("It is deleted.")}, parameters=[_TUS_HEADER]),
            "options": _OPTIONS,
        },
    },
    "components": {
        "securitySchemes": {"member": {"type": "http", "scheme": "SSHSIG"}},
        "responses": {
            "Problem": {
                "description": "A refusal, as RFC 9457 problem details.",
                "content": {
                    "application/problem+json": {
                        "schema": {
                            "type": "object",
                            "required": ["type", "title", "status", "code", "detail", "remedy"],
                            "properties": {
                                "status": {"type": "integer"},
                                "code": {"type": "string", "pattern": "^E_[A-Z0-9_]+$"},
                                "detail": {"type": "string"},
                                "remedy": {"type": "string"},
                            },
                        }
                    }
                },
            }
        },
    },
}

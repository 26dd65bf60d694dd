"""What the front answers, as OpenAPI 3.1, for programs; docs/spec/http.md says it to people."""

from __future__ import annotations

from typing import Any

from fedhelp_edge import __version__

_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_WHOLE = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
_BYTES = {"application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_PROBLEM = {"$ref": "#/components/responses/Problem"}
_MEMBER: list[dict[str, list[str]]] = [{"member": []}]


def _header(name: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": schema}


_TUS = _header("Tus-Resumable", {"const": "1.0.0"})
_NAME = {"name": "hash", "in": "path", "required": True, "schema": _HASH}
_PARCELS = {
    "type": "object",
    "required": ["parcels"],
    "properties": {
        "parcels": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["hash", "kind", "number", "size"],
                "properties": {"hash": _HASH, "kind": {"type": "string"}, "number": _WHOLE, "size": _WHOLE},
            },
        }
    },
}


_VOUCH = {"type": "object", "required": ["vouch"], "properties": {"vouch": _HASH}}


def _does(what: str, answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"summary": what, "responses": {**answers, "default": _PROBLEM}, **more}


def _json(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def _said(what: str) -> dict[str, Any]:
    return {"description": what}


_STANDS = {"200": _said("It was begun before."), "201": _said("It was begun, or is whole.")}
_OPTIONS = _does("What of tus is spoken", {"204": _said("In the headers.")})
_CONTENT = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "fedhelp-edge hub", "version": __version__},
    "paths": {
        "/healthz": {
            "get": _does("Whether it works", {"200": _json("It does.", {"type": "object", "required": ["status"]})})
        },
        "/v1/charters": {"get": _does("Every version of the charter", {"200": _json("Oldest first.", _PARCELS)})},
        "/v1/vouches/{invite}": {
            "parameters": [
                {
                    "name": "invite",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
                }
            ],
            "get": _does("That the hub knows an invite's code", {"200": _json("It does.", _VOUCH)}),
        },
        "/v1/current": {
            "get": _does("What this site may need", {"200": _json("In order.", _PARCELS)}, security=_MEMBER)
        },
        "/v1/parcels/{hash}": {
            "parameters": [_NAME],
            "get": _does(
                "A parcel",
                {
                    "200": {"description": "All of it.", "content": _CONTENT},
                    "206": {"description": "A part.", "content": _CONTENT},
                    "304": _said("It is there already."),
                },
                parameters=[
                    _header(name, {"type": "string"}, required=False) for name in ("Range", "If-Range", "If-None-Match")
                ],
                security=[{}, *_MEMBER],
            ),
        },
        "/v1/uploads": {
            "post": _does(
                "Begin an upload",
                _STANDS,
                parameters=[_TUS, _header("Upload-Length", _WHOLE)],
                requestBody={"required": True, "content": _BYTES},
            ),
            "options": _OPTIONS,
        },
        "/v1/uploads/{hash}": {
            "parameters": [_NAME],
            "head": _does("Where it stands", {"200": _said("In Upload-Offset.")}, parameters=[_TUS]),
            "patch": _does(
                "Add bytes",
                {"204": _said("They are kept.")},
                parameters=[_TUS, _header("Upload-Offset", _WHOLE)],
                requestBody={"required": True, "content": _BYTES},
            ),
            "delete": _does("Abandon it", {"204": _said("It is gone.")}, parameters=[_TUS]),
            "options": _OPTIONS,
        },
    },
    "components": {
        "securitySchemes": {"member": {"type": "http", "scheme": "SSHSIG"}},
        "responses": {
            "Problem": {
                "description": "A refusal, as RFC 9457 has it.",
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

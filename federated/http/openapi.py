"""The API's OpenAPI 3.1 document, made from the table of routes and the types of the values that cross."""

from __future__ import annotations

import functools
import http
import re
from typing import Any

import msgspec

from . import problems, signatures
from .problems import Problem
from .routes import BINARY, EVENTS, HEX, JSON, MSGPACK, ROUTES, Parameter, Route

REFERENCE = "#/components/schemas/{name}"
ALWAYS = (401, 413, 422, 429, 431, 500, 503)  # of every signed call


@functools.cache
def document() -> bytes:
    """The document as JSON."""
    types = [Problem, *(kind for route in ROUTES for kind in (route.takes, route.gives) if kind is not None)]
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    schema = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Joint Sandbox: the analysts' API of a coordinator",
                "version": "1",
                "description": f"Calls are signed as RFC 9421 describes, covering {', '.join(signatures.COVERED)}, "
                f'with an Ed25519 key of the roster and tag "{signatures.TAG}". '
                "Errors are RFC 9457 problems.",
            },
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "signature": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "Signature",
                        "description": "HTTP message signature, RFC 9421",
                    }
                },
            },
        }
    )


def _operation(route: Route, schema: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.text,
        "security": [] if route.open else [{"signature": []}],
        "responses": {str(route.status): _given(route, schema)},
    }
    statuses = set(route.problems) | ({500, 422, 431} if route.open else set(ALWAYS))
    for status in sorted(statuses | ({415} if route.takes is not None else set())):
        operation["responses"][str(status)] = {
            "description": http.HTTPStatus(status).phrase,
            "content": {problems.MEDIA_TYPE: {"schema": schema[repr(Problem)]}},
        }
    parameters = [_placed(name) for name in re.findall(r"{(\w+)}", route.path)]
    parameters += [_asked(parameter) for parameter in route.parameters]
    if parameters:
        operation["parameters"] = parameters
    if route.takes is not None:
        operation["requestBody"] = {
            "required": True,
            "content": _taken(route, schema),
        }
    return operation


def _taken(route: Route, schema: dict[str, Any]) -> dict[str, Any]:
    if route.takes is bytes:
        return {BINARY: {"schema": {"type": "string", "format": "binary"}}}
    return {JSON: {"schema": schema[repr(route.takes)]}}


def _given(route: Route, schema: dict[str, Any]) -> dict[str, Any]:
    known = schema[repr(route.gives)] if route.media == JSON else {}
    if route.media == EVENTS:
        event, data = {"enum": ["stage", "end"]}, {"type": "string", "contentMediaType": JSON}
        known = {
            "type": "object",  # each event
            "properties": {"event": event, "data": data},
            "required": ["event", "data"],
        }
    if route.media in (MSGPACK, BINARY):
        known = {"type": "string", "format": "binary"}
    given: dict[str, Any] = {
        "description": http.HTTPStatus(route.status).phrase,
        "content": {route.media: {"schema": known}},
    }
    if route.name in ("submit", "ticket", "cancel"):
        given["headers"] = {
            "ETag": {"description": "Which state of the ticket this is.", "schema": {"type": "string"}}
        }
    return given


def _placed(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": HEX}}


def _asked(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "description": parameter.text,
        "schema": parameter.schema,
    }

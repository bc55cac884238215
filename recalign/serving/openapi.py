"""What `/api/openapi.json` says of the JSON interface: OpenAPI 3.1, by the limits of a server."""

from typing import TYPE_CHECKING, Any

import recalign

if TYPE_CHECKING:
    from recalign.serving.app import Limits

_JSON = "application/json"
_ERRORS = {
    400: "Something in the request is wrong; the message says what.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not of type application/json.",
    500: "Something is broken here.",
    503: "Too many requests at once, or the server answers no more.",
    504: "This took too long.",
}


def describe(limits: "Limits", depth: int) -> dict[str, Any]:
    """The document, by the limits for clients and the items of the longest ranking."""
    text = {"type": "string"}
    item = _object({"id": text, "item": text, "title": text, "brand": text})
    row = _object(
        {
            "rank": {"type": "integer", "minimum": 1},
            "score": {"type": "number", "description": "The log-probability of its text."},
            "probability": {
                "type": "number",
                "minimum": 0,
                "description": "Among the items of the catalogue, which have the sum 1.",
            },
            "seen": {"type": "boolean", "description": "Whether the history has it."},
            **item["properties"],
        }
    )
    history = {
        "type": "array",
        "items": text,
        "minItems": 1,
        "maxItems": limits.history,
        "description": "Ids of items, the source's or the model's, oldest first.",
    }
    options = {
        "k": {"type": "integer", "minimum": 1, "maximum": depth, "default": min(10, depth)},
        "include_seen": {"type": "boolean", "default": False},
    }
    several = {"type": "array", "minItems": 1, "maxItems": limits.histories, "items": history}
    ranking = {"type": "array", "items": row}
    words = {"name": "q", "in": "query", "schema": text | {"maxLength": limits.words}}
    ids = {
        "name": "id",
        "in": "query",
        "schema": {"type": "array", "items": text, "maxItems": limits.history},
        "explode": True,
    }
    share = {"type": "number", "minimum": 0}
    about = {
        "domain": text,
        "items": {"type": "integer"},
        "most_history": {"type": "integer"},
        "most_histories": {"type": "integer"},
        "most_items": {"type": "integer"},
        "examples": {"type": "array", "items": {"type": "array", "items": item}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "recalign serve", "version": recalign.__version__},
        "paths": {
            "/api/about": {"get": _operation("What is served, and its limits.", _object(about))},
            "/api/items": {
                "get": _operation(
                    "The items with these ids, or else those that hold all words of q.",
                    _object({"items": {"type": "array", "items": item}}),
                    parameters=[words, ids],
                )
            },
            "/api/recommend": {
                "post": _operation(
                    "The ranking for a history.",
                    _object({"items": ranking}),
                    body=_object({"history": history} | options, ["history"]),
                )
            },
            "/api/recommend_batch": {
                "post": _operation(
                    "The ranking for each of several histories.",
                    _object({"rankings": {"type": "array", "items": ranking}}),
                    body=_object({"histories": several} | options, ["histories"]),
                )
            },
            "/api/why": {
                "post": _operation(
                    "How much of the decoder's attention each item of a history has, as it writes "
                    "an item; the rest is on the words of the question.",
                    _object({"looked_at": {"type": "array", "items": share}}),
                    body=_object({"history": history, "item": text}),
                )
            },
            "/healthz": {
                "get": _operation("Whether it answers.", _object({"status": {"const": "ok"}}))
            },
            "/metrics": {"get": _operation("Counts for Prometheus.", text, kind="text/plain")},
        },
    }


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """An object of these properties and no others, all required unless it is said which."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def _operation(
    summary: str,
    answer: dict[str, Any],
    parameters: list[dict] | None = None,
    body: dict[str, Any] | None = None,
    kind: str = _JSON,
) -> dict[str, Any]:
    error = _content(_object({"error": {"type": "string"}}))
    answers = {"200": {"description": "The answer.", **_content(answer, kind)}}
    answers |= {str(status): {"description": why, **error} for status, why in _ERRORS.items()}
    found: dict[str, Any] = {"summary": summary, "responses": answers}
    if parameters:
        found["parameters"] = parameters
    if body:
        found["requestBody"] = {"required": True, **_content(body)}
    return found


def _content(schema: dict[str, Any], kind: str = _JSON) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}

"""What the server understands, as an OpenAPI 3.1 document: /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutelage._version import __version__

ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
REFUSALS = {
    "400": "no image in the request, or a wrong option",
    "413": "the body is larger than the limit",
    "415": "neither an image nor multipart/form-data",
    "422": "none of the images can be read; the reasons are in the answer's predictions",
    "503": "too many images are waiting; try again after Retry-After",
    "504": "no answer within the time limit",
}


@dataclass(frozen=True)
class Limits:
    """What a request may cost at most, and what all requests may cost together."""

    request_bytes: int = 32_000_000
    images: int = 64  # in a request
    pixels: int = 50_000_000  # of an image
    seconds: float = 30.0  # from a request's head to its answer
    threads: int = 1  # requests that are computed at once; the others wait
    total_bytes: int = 256_000_000  # of all bodies; further requests are refused with 503


def describe(classes: Sequence[str], limits: Limits) -> dict[str, Any]:
    """The document for a model of these classes."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "tutelage serve", "version": __version__},
        "paths": {
            "/predict": {"post": _predict(classes, limits)},
            "/health": _get(
                "Whether the server answers, and which model it has",
                _json("the server answers", {"type": "object"}),
            ),
            "/metrics": _get(
                "Counters in the text format of Prometheus",
                {"description": "counters", "content": {"text/plain": {}}},
            ),
        },
    }


def _get(summary: str, response: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": response}}}


def _predict(classes: Sequence[str], limits: Limits) -> dict[str, Any]:
    answers = {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "predictions": {"type": "array", "items": _prediction(classes)},
        },
        "required": ["model", "predictions"],
    }
    binary = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": binary, "maxItems": limits.images}
    bodies = {
        "image/*": binary,
        "application/octet-stream": binary,
        "multipart/form-data": {"type": "object", "properties": {"images": files}},
    }
    reject = {
        "name": "reject",
        "in": "query",
        "schema": {"type": "boolean", "default": False},
        "description": 'call images that look like none of the classes "unknown"',
    }
    responses = {"200": _json("one prediction per image, in their order", answers)}
    for status, words in REFUSALS.items():
        responses[status] = _json(words, answers if status == "422" else ERROR)
    return {
        "summary": "Classify an image, or several",
        "description": f"At most {limits.images} images, {limits.request_bytes:,} bytes, "
        f"{limits.pixels:,} pixels an image, {limits.seconds:g} seconds.",
        "parameters": [reject],
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": schema} for kind, schema in bodies.items()},
        },
        "responses": responses,
    }


def _prediction(classes: Sequence[str]) -> dict[str, Any]:
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    return {
        "type": "object",
        "description": "an answer, or the reason why there is none",
        "properties": {
            "image": {"type": "string", "description": "the file's name in the request"},
            "label": {"type": "string"},
            "confidence": probability,
            "probabilities": {"type": "object", "properties": dict.fromkeys(classes, probability)},
            "rejected": {"type": "boolean", "description": "only with reject=true"},
            "error": {"type": "string"},
        },
        "required": ["image"],
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}

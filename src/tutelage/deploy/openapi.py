"""What the server understands, in OpenAPI 3.1: for programs, and for who reads /openapi.json."""

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
    """What one request, and all of them together, may cost.

    Attributes:
        request_bytes: of a body.
        images: in a request.
        pixels: of an image.
        seconds: from a request's head to its answer.
        threads: requests computed at once; the others wait.
        total_bytes: bodies held at once, over all requests; more are turned away with 503.
    """

    request_bytes: int = 32_000_000
    images: int = 64
    pixels: int = 50_000_000
    seconds: float = 30.0
    threads: int = 1
    total_bytes: int = 256_000_000


def describe(classes: Sequence[str], limits: Limits) -> dict[str, Any]:
    """The document for a model of these classes."""
    binary = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": binary, "maxItems": limits.images}
    body = {
        "image/*": {"schema": binary},
        "application/octet-stream": {"schema": binary},
        "multipart/form-data": {"schema": {"type": "object", "properties": {"images": files}}},
    }
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    prediction = {
        "type": "object",
        "description": "an answer, or the reason why there is none",
        "properties": {
            "image": {"type": "string", "description": "the file's name in the request"},
            "label": {"type": "string"},
            "confidence": probability,
            "probabilities": {
                "type": "object",
                "properties": dict.fromkeys(classes, probability),
            },
            "rejected": {"type": "boolean", "description": "only with reject=true"},
            "error": {"type": "string"},
        },
        "required": ["image"],
    }
    answers = {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "predictions": {"type": "array", "items": prediction},
        },
        "required": ["model", "predictions"],
    }
    refusals = {
        status: {"description": words, "content": {"application/json": {"schema": ERROR}}}
        for status, words in REFUSALS.items()
    }
    refusals["422"]["content"] = {"application/json": {"schema": answers}}
    ask = {
        "summary": "Classify an image, or several",
        "description": f"At most {limits.images} images, {limits.request_bytes:,} bytes, "
        f"{limits.pixels:,} pixels an image, {limits.seconds:g} seconds.",
        "parameters": [
            {
                "name": "reject",
                "in": "query",
                "schema": {"type": "boolean", "default": False},
                "description": 'call images that look like none of the classes "unknown"',
            }
        ],
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": {
                "description": "one prediction an image, in their order",
                "content": {"application/json": {"schema": answers}},
            },
            **refusals,
        },
    }
    health = {
        "summary": "Whether the server answers, and which model it has",
        "responses": {
            "200": {
                "description": "it does",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    }
    metrics = {
        "summary": "Counters in the text format of Prometheus",
        "responses": {"200": {"description": "counters", "content": {"text/plain": {}}}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "tutelage serve", "version": __version__},
        "paths": {
            "/predict": {"post": ask},
            "/health": {"get": health},
            "/metrics": {"get": metrics},
        },
    }

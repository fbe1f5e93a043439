"""What the server understands, as an OpenAPI 3.1 document: /openapi.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage._version import __version__

ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
REFUSALS = {
    "400": "there is no image in the request, or an option is wrong",
    "413": "the body is larger than the limit",
    "415": "the body is neither an image nor multipart/form-data",
    "422": "none of the images can be read; the reasons are in the answer's predictions",
    "500": "the model cannot be run: its file is damaged",
    "503": "too many images are waiting; try again after the seconds in Retry-After",
    "504": "the answer was not ready within the time limit",
}
EXAMPLE_CLASSES = 10  # in the example of an answer
CURL = "curl --data-binary @photo.jpg {address}/predict"
CURL_SEVERAL = "curl -F images=@one.jpg -F images=@two.png {address}/predict"
CURL_REJECT = 'curl --data-binary @photo.jpg "{address}/predict?reject=true"'
PYTHON = """\
import json
from pathlib import Path
from urllib.request import urlopen

photo = Path("photo.jpg").read_bytes()
with urlopen("{address}/predict", data=photo) as response:
    (prediction,) = json.load(response)["predictions"]
print(prediction["label"], prediction["confidence"])"""
JAVASCRIPT = """\
const {{ readFile }} = await import("node:fs/promises");

const response = await fetch("{address}/predict", {{
  method: "POST",
  body: await readFile("photo.jpg"),
}});
const answer = await response.json();
if (!response.ok) throw new Error(JSON.stringify(answer));
console.log(answer.predictions[0].label, answer.predictions[0].confidence);"""


@dataclass(frozen=True)
class Limits:
    """What a request may cost at most, and what all requests may cost together."""

    request_bytes: int = 32_000_000
    images: int = 64  # in a request
    pixels: int = 50_000_000  # of an image
    seconds: float = 30.0  # from a request's head to its answer
    threads: int = 1  # requests that are computed at once; the others wait
    total_bytes: int = 256_000_000  # of all bodies; further requests are refused with 503


def describe(about: Mapping[str, Any], limits: Limits, address: str) -> dict[str, Any]:
    """The document of a server that answers ``about`` at /health.

    The examples call its address as the client does; it has no slash at its end.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tutelage serve",
            "version": __version__,
            "description": f"{about['model']} tells {len(about['classes'])} classes apart.",
        },
        "servers": [{"url": address}],
        "paths": {
            "/predict": {"post": _predict(about, limits, address)},
            "/health": _get(
                "Whether the server answers, and which model it has",
                f"curl {address}/health",
                _json(
                    "the model, its classes, and whether it has a threshold to reject by",
                    {"type": "object"},
                    dict(about),
                ),
            ),
            "/metrics": _get(
                "Counters in the text format of Prometheus",
                f"curl {address}/metrics",
                {
                    "description": "requests by status, images, predictions by class, seconds",
                    "content": {"text/plain": {}},
                },
            ),
        },
    }


def _get(summary: str, curl: str, response: dict[str, Any]) -> dict[str, Any]:
    samples = [_sample("Shell", "curl", curl)]
    return {"get": {"summary": summary, "responses": {"200": response}, "x-codeSamples": samples}}


def _sample(language: str, label: str, source: str) -> dict[str, str]:
    """An entry of x-codeSamples, an extension that many tools for OpenAPI show."""
    return {"lang": language, "label": label, "source": source}


def _predict(about: Mapping[str, Any], limits: Limits, address: str) -> dict[str, Any]:
    answers = {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "predictions": {"type": "array", "items": _prediction(about["classes"])},
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
        "description": 'images that look like none of the classes are called "unknown"',
    }
    responses = {"200": _json("one prediction per image, in their order", answers, _example(about))}
    for status, words in REFUSALS.items():
        responses[status] = _json(words, answers if status == "422" else ERROR)
    samples = {"curl": ("Shell", CURL), "curl, several images": ("Shell", CURL_SEVERAL)}
    if about["rejects"]:
        samples["curl, images of none of the classes"] = ("Shell", CURL_REJECT)
    samples |= {"Python": ("Python", PYTHON), "JavaScript (Node.js)": ("JavaScript", JAVASCRIPT)}
    return {
        "summary": "Classify an image, or several",
        "description": "The body is an image of any size (JPEG, PNG, WebP, BMP, TIFF or GIF), "
        "whatever its Content-Type, or a form (multipart/form-data) with several. "
        f"At most {limits.images} images and {limits.request_bytes:,} bytes in a request, "
        f"{limits.pixels:,} pixels in an image, and {limits.seconds:g} seconds until the answer.",
        "parameters": [reject] if about["rejects"] else [],
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": schema} for kind, schema in bodies.items()},
        },
        "responses": responses,
        "x-codeSamples": [
            _sample(language, label, source.format(address=address))
            for label, (language, source) in samples.items()
        ],
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


def _example(about: Mapping[str, Any]) -> dict[str, Any]:
    """An answer for an image and for a file that is none."""
    shown = about["classes"][:EXAMPLE_CLASSES]
    rest = 0.1 / max(1, len(shown) - 1)
    probabilities = {name: round(rest, 4) for name in shown} | {shown[0]: 0.9}
    known = {"label": shown[0], "confidence": 0.9, "probabilities": probabilities}
    return {
        "model": about["model"],
        "predictions": [
            {"image": "one.jpg", **known},
            {"image": "two.png", "error": "the file is empty"},
        ],
    }


def _json(description: str, schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"description": description, "content": {"application/json": content}}

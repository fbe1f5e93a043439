import dataclasses
import json

import pytest

from tutelage.models.spec import ModelSpec
from tutelage.system.errors import TutelageError

SPEC = ModelSpec(
    architecture="test_efficientnet",
    cut=3,
    classes=("Ameise", "蜂"),
    input_size=48,
    canvas=64,
    crop_pct=0.875,
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    temperature=1.7,
    unknown_threshold=-1.5,
    head_hidden=32,
    versions={"tutelage": "0"},
)


def test_json_round_trip_is_exact() -> None:
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC


def test_optional_fields_may_be_absent() -> None:
    fields = json.loads(SPEC.to_json())
    for name in (
        "temperature",
        "unknown_threshold",
        "head_hidden",
        "skipped",
        "levels",
        "versions",
    ):
        del fields[name]
    read = ModelSpec.from_json(json.dumps(fields))
    assert (read.temperature, read.head_hidden) == (1.0, None)
    assert read.unknown_threshold is None


def test_what_earlier_versions_wrote_is_still_read() -> None:
    fields = {**json.loads(SPEC.to_json()), "thresholds": None}
    assert ModelSpec.from_json(json.dumps(fields)) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"cut": None, "skipped": ["blocks.1.1"]}, "in a cut trunk only"),
        ({"levels": [4, 3]}, "levels must rise"),
        ({"levels": [0]}, "levels must rise"),
        ({"levels": [2, 9]}, "within the cut"),
        ({"format": None}, "format None"),
        ({"colour": 1}, "unknown.*colour"),
        ({"std": [0.5, 0.5]}, "std is"),
        ({"std": [0.5, 0.5, 0.0]}, "std must be positive"),
        ({"classes": ["a", "a"]}, "unique"),
        ({"classes": []}, "unique and not empty"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"unknown_threshold": float("inf")}, "unknown_threshold is inf"),
        ({"crop_pct": 1.5}, "crop_pct"),
        ({"canvas": "big"}, "wrong type"),
        ({"canvas": 0}, "must be positive"),
        ({"input_size": 10**9}, "2048 at most"),
        ({"input_size": True}, "input_size is True"),
        ({"classes": "ab"}, "classes is 'ab'"),
        ({"classes": [1, 2]}, r"classes is \[1, 2\]"),
        ({"classes": [str(k) for k in range(65_537)]}, "65,536 classes at most"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 10**400}, "temperature is 1000"),
        ({"head_hidden": 10**6}, "head_hidden must be 1 to"),
        ({"architecture": None}, "architecture is None"),
        ({"skipped": [["blocks.1.1"]]}, "skipped is"),
        ({"versions": {"torch": 2}}, "versions is"),
    ],
)
def test_bad_descriptions_are_refused(change: dict, message: str) -> None:
    text = json.dumps({**json.loads(SPEC.to_json()), **change})
    with pytest.raises(TutelageError, match=message):
        ModelSpec.from_json(text)


def test_missing_field_is_named() -> None:
    fields = json.loads(SPEC.to_json())
    del fields["canvas"]
    with pytest.raises(TutelageError, match=r"lacks.*canvas"):
        ModelSpec.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"classes": ["a"]}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(TutelageError, match=r"not JSON|not a tutelage model"):
        ModelSpec.from_json(text)


def test_spec_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.canvas = 3  # type: ignore[misc]

import dataclasses
import json

import pytest

from tutelage.models.spec import ModelSpec, TrunkSpec
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
    decision_threshold=("蜂", 0.25),
    head_hidden=32,
    versions={"tutelage": "0"},
)
TRUNK = TrunkSpec("test_resnet", cut=2, mean=(0.1, 0.1, 0.1), std=(0.2, 0.2, 0.2), levels=(1,))
JOINT = dataclasses.replace(
    SPEC,
    architecture="test_resnet+test_vit",
    cut=None,
    head_hidden=None,
    members=(TRUNK, TrunkSpec("test_vit", None, (0.3, 0.3, 0.3), (0.4, 0.4, 0.4))),
)
MEMBERS = json.loads(JOINT.to_json())["members"]


@pytest.mark.parametrize("spec", [SPEC, JOINT])
def test_json_round_trip_is_exact(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_a_trunk_of_several_is_described_as_a_model_of_its_own() -> None:
    assert SPEC.trunks == (SPEC,)
    for trunk, member in zip(JOINT.trunks, JOINT.members, strict=True):
        assert {name: getattr(trunk, name) for name in vars(member)} == vars(member)
    for trunk in JOINT.trunks:
        assert trunk.members == ()
        assert (trunk.classes, trunk.input_size, trunk.canvas) == (SPEC.classes, 48, 64)
    assert JOINT.has_levels
    assert not SPEC.has_levels


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (MEMBERS[:1], "2 to 16 members"),
        (MEMBERS * 9, "2 to 16 members"),
        ([MEMBERS[0], 3], "3 in place of a trunk's fields"),
        ([MEMBERS[0], {**MEMBERS[1], "members": MEMBERS}], r"unknown \['members'\]"),
        ([MEMBERS[0], {"architecture": "test_vit"}], r"lacks \['cut', 'mean', 'std'\]"),
        ([MEMBERS[0], {**MEMBERS[1], "std": [0, 1, 1]}], "std must be positive"),
        ([MEMBERS[0], {**MEMBERS[1], "levels": [2, 1]}], "levels must rise"),
        ([MEMBERS[0], {**MEMBERS[1], "cut": "x"}], "cut is 'x'"),
        ({"a": 1}, "members is"),
    ],
)
def test_bad_members_are_refused(members: object, message: str) -> None:
    text = json.dumps({**json.loads(JOINT.to_json()), "members": members})
    with pytest.raises(TutelageError, match=message):
        ModelSpec.from_json(text)


@pytest.mark.parametrize("change", [{"cut": 3}, {"levels": (1,)}, {"head_hidden": 8}])
def test_only_members_are_cut_or_have_levels(change: dict) -> None:
    with pytest.raises(TutelageError, match="only the members of a joint model"):
        dataclasses.replace(JOINT, **change)


def test_optional_fields_may_be_absent() -> None:
    fields = json.loads(SPEC.to_json())
    for name in ("temperature", "unknown_threshold", "decision_threshold", "head_hidden",
                 "skipped", "levels", "versions", "members"):  # fmt: skip
        del fields[name]
    read = ModelSpec.from_json(json.dumps(fields))
    assert (read.temperature, read.head_hidden) == (1.0, None)
    assert read.unknown_threshold is None


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
        ({"decision_threshold": ["nobody", 0.3]}, "decision_threshold must be a class"),
        ({"decision_threshold": ["蜂", 1.3]}, "decision_threshold must be a class"),
        ({"decision_threshold": 0.3}, "decision_threshold is 0.3"),
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


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"classes": ["a"]}', SPEC.to_json().replace("canvas", "cnvas")]
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(TutelageError, match=r"not JSON|not a tutelage model|lacks \['canvas'\]"):
        ModelSpec.from_json(text)

"""The table of forms, and the arguments of the verb that names them."""

import inspect
import typing
from pathlib import Path

import pytest

from tutelage import api
from tutelage.deploy.export import BESIDE, FORMATS


def test_every_form_is_an_argument_of_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = inspect.signature(api.export).parameters
    assert typing.get_args(eval(parameters["format"].annotation, vars(typing))) == tuple(FORMATS)
    assert parameters["format"].default == "onnx"
    seen = []

    def export(*_: object, beside: dict[str, bool], **__: object) -> dict[str, object]:
        seen.append(beside)
        return {}

    monkeypatch.setattr("tutelage.deploy.export.export", export)
    for name in BESIDE:
        assert parameters[name].default is False
        api.export(tmp_path, **{name: True})
    assert seen == [{other: other == name for other in BESIDE} for name in BESIDE]

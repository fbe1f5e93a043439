"""The table of forms, and the verb and the options that are made from it."""

import inspect
import typing
from pathlib import Path
from typing import Any

import pytest

from tutelage import api
from tutelage.deploy.forms import BESIDE, FORMATS, Form, chosen_forms, with_forms
from tutelage.system.errors import TutelageError


def test_every_form_is_an_argument_of_the_verb() -> None:
    parameters = inspect.signature(api.export).parameters
    assert {*BESIDE, "format", "web"} <= {*parameters}
    assert "forms" not in parameters
    assert typing.get_args(api.export.__annotations__["format"]) == tuple(FORMATS)
    assert all(parameters[name].default is False for name in BESIDE)


def test_a_new_row_is_a_new_option_with_its_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(job: Any, path: Path) -> dict[str, Any]:
        return {}

    monkeypatch.setitem(FORMATS, "tflite", Form("model.tflite", "a file for phones", write))

    def verb(*, threshold: str | None = None, **forms: Any) -> None:
        """Write.

        Args:
            threshold: a number.
            forms: what is written.
        """

    made = with_forms(verb)
    assert "tflite, a file for phones." in " ".join(made.__doc__.split())
    assert "tflite" in typing.get_args(made.__annotations__["format"])
    assert chosen_forms({"format": "tflite"}, {}, threshold=False) == ("tflite", [], None)


def test_a_form_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="export has no option in8; the forms are format, port"):
        api.export(tmp_path, in8=True)

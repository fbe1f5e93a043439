"""The names of the package: every verb, and types that a checker understands."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage
from tutelage import api
from tutelage.cli import parser

# A user's checker follows these imports too, for half a minute; they change no type of the package.
CONFIG = """
[mypy]
strict = true
follow_imports = silent
""" + "".join(
    f"[mypy-{name}.*]\nfollow_imports = skip\n"
    for name in (
        "torch",
        "timm",
        "sklearn",
        "tutelage.chain",
        "tutelage.explore",
        "tutelage.ladder",
    )
)
SCRIPT = """
from pathlib import Path

import numpy as np
import tutelage

model: tutelage.Model = tutelage.load("runs/first")
one: tutelage.Prediction = model.predict(Path("a.jpg"))
several: list[tutelage.Prediction] = model.predict(["a.jpg", np.zeros((8, 8, 3), np.uint8)])
print(one.label, several[0].confidence, model.classes, model.evaluate("photos")["accuracy"])
rows, skipped = tutelage.predict("runs/first", "photos/*.jpg")
metrics = tutelage.ladder("photos", "ladder", seeds=3)
tutelage.review("runs/first")
tutelage.augment("photos", Path("out"))
tutelage.FewLabelClassifier(minutes=3)
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_every_command_is_a_function_of_the_package() -> None:
    verbs = {name.replace("-", "_") for name in parser.VERBS}
    assert verbs < set(dir(tutelage))
    assert set(dir(tutelage)) - verbs == {
        "FewLabelClassifier", "MissingExtra", "Model", "Prediction", "TutelageError",
        "__version__", "load",
    }  # fmt: skip
    for name in verbs:
        assert inspect.signature(getattr(tutelage, name)) == inspect.signature(getattr(api, name))


def test_a_verb_can_be_called_before_and_after_the_package_of_its_name_is_imported() -> None:
    assert python("import tutelage; print(tutelage.review is tutelage.api.review)") == "True\n"
    for name in ("augment", "ladder", "review"):
        assert importlib.import_module(f"tutelage.{name}") is getattr(tutelage, name)
        with pytest.raises(TypeError, match=rf"{name}\(\) missing \d required"):
            getattr(tutelage, name)()


def test_a_star_import_brings_them_all() -> None:
    assert python("from tutelage import *; print(load, run, review)").count("<function ") == 3


def test_importing_it_imports_little() -> None:
    heavy = ("torch", "numpy", "PIL", "onnxruntime", "sklearn", "pyarrow")
    assert (
        python(f"import tutelage, sys; print([m for m in {heavy} if m in sys.modules])") == "[]\n"
    )


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        _ = tutelage.fly


def test_a_users_script_passes_a_strict_check(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text("import tutelage\ntutelage.fly()\ntutelage.predict(3)\n")
    (tmp_path / "mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "script.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "script.py:" not in done.stdout, done.stdout
    assert 'wrong.py:2: error: Module has no attribute "fly"' in done.stdout
    assert "wrong.py:3: error: " in done.stdout

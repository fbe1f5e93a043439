"""The one file without tutelage answers as ``predict`` does, on files of every kind."""

from __future__ import annotations

import ast
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deployed import picture
from PIL import Image
from shown import DOCS

pytest.importorskip("timm")

import onnx
from deployed import small_model

from tutelage import api
from tutelage.deploy.onnx import export_onnx
from tutelage.deploy.runtime import OnnxModel

PORT = DOCS.parent / "ports" / "python" / "classify.py"
PIXELS = picture(60, 90)
RGB = Image.fromarray(PIXELS)
CLASSES = ("ant", "bee", "wasp")


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def see_through(image: Image.Image) -> Image.Image:
    """More and more transparent to the right."""
    alpha = np.linspace(0, 255, image.width).astype(np.uint8)
    image.putalpha(Image.fromarray(np.tile(alpha, (image.height, 1))))
    return image


GREY = RGB.convert("L")
DEEP = np.asarray(GREY).astype(np.uint16) * 256 + (255 - np.asarray(GREY))
FILES: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    **{f"turned{k}.jpg": (RGB, turned(k)) for k in range(1, 9)},
    "turned.png": (RGB, turned(6)),
    "alpha.png": (see_through(RGB.copy()), {}),
    "alpha-turned.webp": (see_through(RGB.copy()), {"lossless": True, **turned(8)}),
    "grey-alpha.png": (see_through(GREY.copy()), {}),
    "key.png": (GREY, {"transparency": int(np.median(np.asarray(GREY)))}),
    "palette.png": (RGB.quantize(16), {}),
    "palette-alpha.png": (RGB.quantize(16), {"transparency": bytes(range(0, 256, 16))}),
    "palette.gif": (RGB.quantize(16), {"transparency": 3}),
    "16-bit.png": (Image.fromarray(DEEP), {}),
    "16-bit-turned.png": (Image.fromarray(DEEP), turned(3)),
    "16-bit.tif": (Image.fromarray(DEEP), {}),
    "cmyk.jpg": (RGB.convert("CMYK"), {}),
    "grey.jpg": (GREY, {}),
    "bits.png": (RGB.convert("1"), {}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    for name, (image, options) in FILES.items():
        image.save(folder / name, **options)
    return [folder / name for name in FILES]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "student.onnx"
    export_onnx(small_model(CLASSES, temperature=1.25), path)
    return path


@pytest.fixture(scope="module")
def port() -> dict[str, Any]:
    return runpy.run_path(str(PORT))


def with_metadata(model: Path, out: Path, **values: Any) -> Path:
    """A copy of an exported model with other thresholds."""
    proto = onnx.load(str(model))
    changed = {f"tutelage.{name}": json.dumps(value) for name, value in values.items()}
    onnx.helper.set_model_props(proto, {**OnnxModel(model).metadata, **changed})
    onnx.save(proto, str(out))
    return out


def test_every_file_has_the_answer_of_predict(
    files: list[Path], model: Path, port: dict[str, Any]
) -> None:
    classify = port["Classifier"](model)
    rows, skipped = api.predict(model, files)
    assert not skipped
    for file, row in zip(files, rows, strict=True):
        assert classify(port["read"](file)) == (row.label, row.probabilities), file.name
    assert np.ptp([row.confidence for row in rows[:8]]) > 0.01  # the turns do matter


@pytest.mark.parametrize("decision", [None, ("wasp", 0.2)])
def test_the_thresholds_decide_as_in_predict(
    decision: tuple[str, float] | None,
    files: list[Path],
    model: Path,
    port: dict[str, Any],
    tmp_path: Path,
) -> None:
    _, energies = OnnxModel(model).answers([port["read"](file) for file in files])
    values = {"unknown_threshold": float(np.median(energies)), "decision_threshold": decision}
    strict = with_metadata(model, tmp_path / "strict.onnx", **values)
    classify = port["Classifier"](strict)
    labels = [classify(port["read"](file))[0] for file in files]
    rows, _ = api.predict(strict, files, reject=True)
    assert labels == [row.label for row in rows]
    assert labels.count("unknown") == len(files) // 2


def test_the_decision_threshold_changes_answers(
    files: list[Path], model: Path, port: dict[str, Any], tmp_path: Path
) -> None:
    own = with_metadata(model, tmp_path / "own.onnx", decision_threshold=("wasp", 0.2))
    plain, decided = (port["Classifier"](path) for path in (model, own))
    pictures = [port["read"](file) for file in files]
    assert [plain(p)[0] for p in pictures] != [decided(p)[0] for p in pictures]


def test_it_runs_from_the_command_line(
    files: list[Path],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [str(PORT), str(model), *map(str, files[:2])])
    runpy.run_path(str(PORT), run_name="__main__")
    first, second = capsys.readouterr().out.splitlines()
    rows, _ = api.predict(model, files[:2])
    assert first.startswith(f"{files[0]} {rows[0].label} {{'ant': ")
    assert second.startswith(f"{files[1]} {rows[1].label} ")


def test_it_needs_nothing_but_numpy_pillow_and_onnxruntime() -> None:
    nodes = [*ast.walk(ast.parse(PORT.read_text("utf-8")))]
    imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}


def test_the_page_leads_to_this_file() -> None:
    assert "](../ports/python/classify.py)" in (DOCS / "deployment.md").read_text("utf-8")

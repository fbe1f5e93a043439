import json
from pathlib import Path

from deployed import small_model

from tutelage._version import __version__
from tutelage.deploy.description import description_of, write_description


def test_the_description_holds_what_a_port_needs(tmp_path: Path) -> None:
    threshold = ("bee", 0.3)
    spec = small_model(
        ["蜂", "bee"], temperature=1.25, unknown_threshold=-0.5, decision_threshold=threshold
    ).spec
    path = write_description(
        tmp_path / "a.b.onnx", spec, 700, view=tmp_path / "elsewhere" / "a.b.view.onnx"
    )
    assert path == tmp_path / "a.b.onnx.json" == description_of(tmp_path / "a.b.onnx")
    text = path.read_text("utf-8")
    assert "蜂" in text
    assert json.loads(text) == {
        "format": 1,
        "tutelage": __version__,
        "architecture": "tf_efficientnet_lite0",
        "parameters": 700,
        "classes": ["蜂", "bee"],
        "files": {"onnx": "a.b.onnx", "portable": None, "view": "a.b.view.onnx"},
        "canvas": 48,
        "input_size": 40,
        "crop_pct": spec.crop_pct,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "temperature": 1.25,
        "unknown_threshold": -0.5,
        "decision_threshold": ["bee", 0.3],
    }


def test_thresholds_that_are_not_there_are_null(tmp_path: Path) -> None:
    path = write_description(tmp_path / "m.onnx", small_model(["a", "b"]).spec, 1)
    fields = json.loads(path.read_text("utf-8"))
    assert fields["unknown_threshold"] is fields["decision_threshold"] is None
    assert fields["files"] == {"onnx": "m.onnx", "portable": None, "view": None}

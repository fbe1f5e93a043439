"""Each port proves itself on a small model, and sees when answers are not the model's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import scripts  # noqa: E402
from deployed import IMAGES, picture, small_model  # noqa: E402
from node_packages import install  # noqa: E402
from PIL import Image  # noqa: E402

from tutelage.data.decode import decode  # noqa: E402
from tutelage.deploy.answers import answer  # noqa: E402
from tutelage.deploy.graph import Deployed  # noqa: E402
from tutelage.deploy.onnx import export_onnx  # noqa: E402
from tutelage.deploy.portable import (  # noqa: E402
    canvas_and_view,
    export_portable,
    export_view,
    write_description,
    write_golden,
)
from tutelage.deploy.runtime import OnnxModel  # noqa: E402
from tutelage.models.classifier import Classifier  # noqa: E402

with scripts.importable():
    import runtimes

ROOT = Path(__file__).parents[1]
PORTS = ROOT / "ports"
ALIKE = 1e-3  # as much as a probability may differ
PHOTOS = 12  # of the short form of benchmarks/runtimes.py


@pytest.fixture(scope="module")
def model() -> Classifier:
    thresholds = {"unknown_threshold": -1.28, "decision_threshold": ("b", 0.22)}
    return small_model(["a", "b", "c"], temperature=1.25, **thresholds)


@pytest.fixture(scope="module")
def exported(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description of a model in its three forms, with golden images and three photos."""
    folder = tmp_path_factory.mktemp("exported")
    usual, portable, view = (folder / f"model{form}.onnx" for form in ("", ".portable", ".view"))
    export_onnx(model, usual)
    export_portable(model, portable)
    export_view(model, view)
    write_golden(model, usual, [*IMAGES, picture(300, 400)])
    for seed in (2, 4, 8):  # as a camera writes them that was held upright
        exif = Image.Exif()
        exif[0x0112] = 6
        photo = Image.fromarray(picture(120, 180, seed))
        photo.save(folder / f"{seed}.jpg", quality=95, subsampling=0, exif=exif)
    return write_description(usual, model.spec, 1, portable=portable, view=view)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(PORTS / "javascript-onnxruntime-web", tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def python_port() -> list[str]:
    pytest.importorskip("openvino")
    return [sys.executable, str(PORTS / "python-openvino" / "port.py")]


@pytest.fixture(scope="module")
def javascript_port(node: Path) -> list[str]:
    return ["node", str(node / "port.mjs")]


@pytest.fixture(scope="module")
def cpp_port(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    for tool in ("cmake", "c++"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool} on this machine")
    if not list(Path("/usr").glob("**/include/opencv*/opencv2/dnn.hpp")):
        pytest.skip("no libopencv-dnn-dev on this machine")
    build = tmp_path_factory.mktemp("cpp")
    subprocess.run(["cmake", "-B", build, "-S", PORTS / "cpp-opencv"], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    return [str(build / "port")]


@pytest.fixture(params=["python_port", "javascript_port", "cpp_port"])
def port(request: pytest.FixtureRequest) -> list[str]:
    return request.getfixturevalue(request.param)


def test_a_port_proves_itself_and_answers_as_predict_does(port: list[str], exported: Path) -> None:
    photos = sorted(exported.parent.glob("*.jpg"))
    done = subprocess.run([*port, exported, *photos], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    proof, *lines = done.stdout.splitlines()
    assert proof.startswith("largest difference of a probability ")
    opened = OnnxModel(exported.with_suffix(""))
    pixels = [decode(photo.read_bytes()) for photo in photos]
    names, threshold = [str(photo) for photo in photos], opened.decision_threshold
    expected = answer(opened, names, pixels, reject=True, threshold=threshold)
    assert lines == [f"{p.image}: {p.label}" for p in expected]
    assert [p.label for p in expected] == ["unknown", "b", "a"]


def test_a_port_whose_answers_differ_says_so(
    port: list[str], exported: Path, tmp_path: Path
) -> None:
    wrong = shutil.copytree(exported.parent, tmp_path / "wrong")
    golden = wrong / "golden" / "golden.json"
    content = json.loads(golden.read_text())
    content["images"][4]["probabilities"][0] += 1.5 * content["tolerance"]
    golden.write_text(json.dumps(content))
    done = subprocess.run([*port, wrong / exported.name], capture_output=True, text=True)
    assert done.returncode == 1
    assert "these answers are not the model's" in done.stderr


# --- the short form of benchmarks/runtimes.py


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Cuttings of the two photos that scikit-learn brings, in many shapes."""
    datasets = pytest.importorskip("sklearn.datasets")
    pair = datasets.load_sample_images().images
    return [pair[i % 2][10 * i :, 17 * i : 400 + 15 * i].copy() for i in range(PHOTOS)]


@pytest.mark.parametrize(
    ("runtime", "form"),
    [
        ("OpenVINO, f32", "onnx"),
        ("OpenVINO, f32", "portable"),
        ("OpenVINO, f32", "view"),
        ("onnxruntime-web, node", "portable"),  # the port has taken the usual file
        ("onnxruntime-web, Chromium", "onnx"),
    ],
)
def test_runtimes_answer_as_onnxruntime_does(
    runtime: str,
    form: str,
    model: Classifier,
    exported: Path,
    photos: list[np.ndarray],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if runtime.startswith("OpenVINO"):
        pytest.importorskip("openvino")
        home = Path(sys.prefix)
    else:
        home = request.getfixturevalue("node")
    described = json.loads(exported.read_text())
    opened, deployed = OnnxModel(exported.with_suffix("")), Deployed(model)
    views = np.concatenate([canvas_and_view(deployed, photo)[1].numpy() for photo in photos])
    cases = runtimes.write_cases(tmp_path / "cases", photos, views, form == "view")
    shutil.copy(exported.with_name(described["files"][form]), cases / "model.onnx")
    try:
        found = runtimes.ask(runtimes.RUNTIMES[runtime], cases / "model.onnx", cases, home)
    except runtimes.Missing as error:
        pytest.skip(str(error))
    line = runtimes.compared(opened.answers(photos), found["answers"], described)
    assert found["version"]
    assert len(found["answers"]) == PHOTOS
    if (runtime, form) == ("OpenVINO, f32", "onnx"):
        assert line["max_difference"] > ALIKE  # it skips antialias: the reason for the other forms
    else:
        assert line["top1_agreement"] == 1
        assert line["max_difference"] < ALIKE
        assert line["max_energy_difference"] < 4 * ALIKE

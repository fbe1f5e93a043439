"""One runtime answers about prepared images, in an environment that has nothing but this runtime.

python worker.py RUNTIME MODEL CASES ANSWERS

``benchmarks/runtimes.py`` calls it and explains CASES and ANSWERS.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Answer = tuple[np.ndarray, float]  # probabilities (K,) and the energy
Model = Callable[[np.ndarray], Answer]  # of one image (H, W, 3) or view (3, S, S)

# onnx2tf compares its result on these pictures, and downloads them where it finds none.
ONNX2TF_DATA = "calibration_image_sample_data_20x128x128x3_float32.npy"


def onnxruntime(path: Path, view: list[int]) -> Model:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: _answer(*session.run(["probabilities", "energy"], {name: x[None]}))


def openvino(path: Path, view: list[int], hint: str | None = None) -> Model:
    import openvino as ov

    hints = {} if hint is None else {"INFERENCE_PRECISION_HINT": hint}
    compiled = ov.Core().compile_model(path, "CPU", hints)
    # A processor without the wanted precision gets another one.
    print(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
    return lambda x: _answer(*(compiled(x[None])[name] for name in ("probabilities", "energy")))


def openvino_f32(path: Path, view: list[int]) -> Model:
    return openvino(path, view, "f32")


def opencv(path: Path, view: list[int]) -> Model:
    import cv2

    net = cv2.dnn.readNetFromONNX(str(path))

    def model(x: np.ndarray) -> Answer:
        net.setInput(x[None])
        return _answer(*net.forward(["probabilities", "energy"]))

    return model


def mnn(path: Path, view: list[int]) -> Model:
    import _tools  # what mnnconvert runs, which itself installs packages to report its use
    import MNN

    converted = str(path.with_suffix(".mnn"))
    _tools.mnnconvert(
        ["", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", converted, "--bizCode", "_"]
    )
    name = "view" if view else "images"
    net = MNN.nn.load_module_from_file(converted, [name], ["probabilities", "energy"])

    def model(x: np.ndarray) -> Answer:
        kind = MNN.expr.uint8 if x.dtype == np.uint8 else MNN.expr.float
        given = MNN.expr.const(x[None], [1, *x.shape], MNN.expr.NCHW, kind)
        return _answer(*(out.read().copy() for out in net.onForward([given])))

    return model


def ncnn(path: Path, view: list[int]) -> Model:
    import ncnn as runtime

    tool = Path(runtime.__file__).parents[1] / "pnnx" / "pnnx"  # bin/pnnx imports torch
    shape = ",".join(map(str, view)) if view else "1,300,400,3"
    _convert(path.parent, tool, path, f"inputshape=[{shape}]{'' if view else 'u8'}", "fp16=0")
    net = runtime.Net()
    if net.load_param(str(path.with_suffix(".ncnn.param"))):
        raise SystemExit("its layers are not those of ncnn")
    net.load_model(str(path.with_suffix(".ncnn.bin")))

    def model(x: np.ndarray) -> Answer:
        with net.create_extractor() as layers:
            layers.input("in0", runtime.Mat(x).clone())
            return _answer(*(np.array(layers.extract(name)[1]) for name in ("out0", "out1")))

    return model


def tract(path: Path, view: list[int]) -> Model:
    import tract as runtime

    runnable = runtime.onnx().load(str(path)).into_model().into_runnable()
    return lambda x: _answer(*(value.to_numpy() for value in runnable.run([x[None]])))


def litert(path: Path, view: list[int]) -> Model:
    from ai_edge_litert.interpreter import Interpreter

    np.save(path.with_name(ONNX2TF_DATA), np.random.rand(20, 128, 128, 3).astype(np.float32))
    tool, to = Path(sys.executable).with_name("onnx2tf"), path.parent / "litert"
    _convert(path.parent, tool, "-i", path, "-o", to, "-n")
    (converted,) = to.glob("*_float32.tflite")
    net = Interpreter(str(converted), num_threads=1)
    net.allocate_tensors()
    (given,) = net.get_input_details()

    def model(x: np.ndarray) -> Answer:
        net.set_tensor(given["index"], x.transpose(1, 2, 0)[None])  # NHWC
        net.invoke()
        found = [net.get_tensor(out["index"]) for out in net.get_output_details()]
        return _answer(*sorted(found, key=np.size, reverse=True))

    return model


def _convert(folder: Path, *command: object) -> None:
    """Run a converter in a folder; if it fails, its last words are the reason."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise SystemExit((done.stdout + done.stderr)[-1000:])


def _answer(probabilities: np.ndarray, energy: np.ndarray) -> Answer:
    if np.size(energy) != 1:
        raise SystemExit(f"the energy of one image has the shape {np.shape(energy)}")
    return np.ravel(probabilities), float(np.ravel(energy)[0])


def inputs(folder: Path, cases: dict[str, Any]) -> Iterator[np.ndarray]:
    """The views (3, S, S) or images (H, W, 3) that ``cases.json`` describes."""
    if cases["view"]:
        yield from np.fromfile(folder / "views.f32", "<f4").reshape(-1, *cases["view"][1:])
        return
    pixels, at = np.fromfile(folder / "images.bin", np.uint8), 0
    for height, width in cases["shapes"]:
        yield pixels[at : at + 3 * height * width].reshape(height, width, 3)
        at += 3 * height * width


def main() -> None:
    runtime, path, folder, answers, package = sys.argv[1:]
    cases = json.loads((Path(folder) / "cases.json").read_text())
    model = globals()[runtime](Path(path), cases["view"])
    found = [model(x) for x in inputs(Path(folder), cases)]
    content = {"version": version(package), "answers": [[p.tolist(), e] for p, e in found]}
    Path(answers).write_text(json.dumps(content))


if __name__ == "__main__":
    main()

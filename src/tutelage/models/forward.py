"""Forwards without gradients: onnxruntime on a CPU, where it is several times faster than torch."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.models.classifier import Classifier

_NAMES = ["logits", "features"]
OPSET = 18  # the first whose Resize is antialiased, for the exported graph


class Forward:
    """A snapshot of a model in evaluation mode: images (B, 3, H, W) in [0, 1] -> one output.

    That is "logits" (B, K) or "features" (B, D). The model is not changed, and later changes to it
    are not seen. B (0, too), H and W may be any that the architecture takes. Nothing has a
    gradient. ``batch`` images go through the model at once, which bounds the memory. The
    ``backend`` is onnxruntime for a model on the CPU whose export gives the same numbers, and else
    torch. An OSError says that the file onnxruntime reads was not written.
    """

    def __init__(self, model: Classifier, output: Literal["logits", "features"] = "logits") -> None:
        self._output = _NAMES.index(output)
        self._device = model.mean.device
        self._net = Outputs(copy.deepcopy(model)).eval().requires_grad_(False)
        self._session: Any = None
        if self._device.type == "cpu":
            try:
                self._session = _session(self._net, model.spec.input_size)
            except OSError:
                raise  # a full disk for temporary files must not change the numbers
            except Exception:  # exporter and runtime raise errors of many kinds
                self._session = None
        self.backend = "torch" if self._session is None else "onnxruntime"
        # In onnxruntime larger batches are no faster, but take half a gigabyte (lite0, 224 px).
        self.batch = 32 if self._session is None else 8

    def __call__(self, images: Tensor) -> Tensor:
        """Run images (B, 3, H, W) float in [0, 1]; the output is on the images' device."""
        return torch.cat([self._run(part) for part in torch.split(images, self.batch)])

    def _run(self, images: Tensor) -> Tensor:
        if not len(images):  # a transformer cannot reshape nothing
            return self._run(images.new_zeros(1, *images.shape[1:]))[:0]
        if self._session is not None:
            feed = {"images": images.float().cpu().contiguous().numpy()}
            return torch.from_numpy(self._session.run(_NAMES, feed)[self._output])
        with torch.no_grad():
            output: Tensor = self._net(images.to(self._device))[self._output]
        return output.to(images.device)


class Outputs(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> logits (B, K) and features (B, D) of a classifier."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both, of one look at the images."""
        features = self.model.features(images)
        return self.model.logits(features), features


def _session(net: nn.Module, size: int) -> Any:
    """An onnxruntime session; its outputs are compared with torch's once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    axes = {"images": {0: "N", 2: "H", 3: "W"}, "logits": {0: "N"}, "features": {0: "N"}}
    graph = trace(net, torch.rand(2, 3, size, size), ["images"], _NAMES, axes)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    probe = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(probe)
    found = session.run(_NAMES, {"images": probe.numpy()})
    for name, ours, theirs in zip(_NAMES, found, expected, strict=True):
        torch.testing.assert_close(
            torch.from_numpy(ours), theirs, rtol=1e-3, atol=1e-3, msg=f"{name} differ from torch's"
        )
    return session


def trace(
    net: nn.Module,
    example: Tensor,
    inputs: list[str],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
    opset: int = OPSET,
) -> bytes:
    """Serialised ONNX of a module of one tensor in evaluation mode, by torch's tracing exporter.

    It takes a second; torch's newer exporter took minutes with dynamic H and W. ``axes`` maps the
    names of in- and outputs to {axis: symbol} of their dynamic axes.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The exporter warns of its own age and of shapes it thinks fixed; callers compare outputs.
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            net,
            (example,),
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
        return path.read_bytes()

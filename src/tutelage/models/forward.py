"""Forwards without gradients: onnxruntime on a CPU, where it is several times faster than torch."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from tutelage.models.classifier import Classifier
from tutelage.system.errors import TutelageError

Both = tuple[Tensor, Tensor]
T = TypeVar("T", Tensor, Both)
OPSET = 18  # the first whose Resize is antialiased, for the exported graph


class Forward(Generic[T]):
    """A snapshot of a model in evaluation mode: images (B, 3, H, W) in [0, 1] -> outputs.

    The model is not changed, and later changes to it are not seen. Any B, H and W that the
    architecture takes; B = 0 too. No gradients.

    Attributes:
        backend: "onnxruntime" or "torch": the one in use.
    """

    @overload
    def __init__(
        self: Forward[Tensor],
        model: Classifier,
        output: Literal["logits", "features"] = ...,
        backend: str = ...,
        batch: int | None = ...,
    ) -> None: ...

    @overload
    def __init__(
        self: Forward[Both],
        model: Classifier,
        output: Literal["both"],
        backend: str = ...,
        batch: int | None = ...,
    ) -> None: ...

    def __init__(
        self,
        model: Classifier,
        output: str = "logits",
        backend: str = "auto",
        batch: int | None = None,
    ) -> None:
        """Take the snapshot.

        Args:
            model: on any device; onnxruntime takes models on the CPU only.
            output: "logits" (B, K), "features" (B, D), or "both": (logits, features).
            backend: "onnxruntime", "torch", or "auto": onnxruntime for a model on the CPU whose
                export gives the same numbers, else torch.
            batch: images in one forward; bounds the memory. None takes 8 in onnxruntime, where more
                are no faster but hold half a gigabyte (lite0, 224 px), and 32 in torch.

        Raises:
            TutelageError: unknown output or backend, or "onnxruntime" cannot run this model.
            OSError: the temporary file that onnxruntime reads cannot be written.
        """
        if output not in ("logits", "features", "both"):
            raise TutelageError(f"output {output!r}: expected 'logits', 'features' or 'both'")
        if backend not in ("auto", "torch", "onnxruntime"):
            raise TutelageError(f"backend {backend!r}: expected 'auto', 'torch' or 'onnxruntime'")
        self.output = output
        self._device = model.mean.device
        self._net = _Outputs(copy.deepcopy(model)).eval().requires_grad_(False)
        self._session: Any = None
        if backend == "onnxruntime" or (backend == "auto" and self._device.type == "cpu"):
            size = model.spec.input_size
            try:
                self._session = _session(self._net, size)
            except OSError:
                raise  # a full disk for temporary files must not change the numbers
            except Exception as error:  # exporter and runtime each raise kinds of their own
                if backend == "onnxruntime":
                    raise TutelageError(
                        f"onnxruntime cannot run {model.spec.architecture}: {error}; "
                        "use backend='torch'"
                    ) from error
        self.backend = "torch" if self._session is None else "onnxruntime"
        self.batch = batch or (32 if self._session is None else 8)

    def __call__(self, images: Tensor) -> T:
        """Run images (B, 3, H, W) float in [0, 1]; the outputs are on the images' device."""
        parts = [self._run(part) for part in torch.split(images, self.batch)]
        logits, features = (torch.cat(columns) for columns in zip(*parts, strict=True))
        result: Any = {"logits": logits, "features": features, "both": (logits, features)}
        return result[self.output]  # type: ignore[no-any-return]

    def _run(self, images: Tensor) -> Both:
        if self._session is not None and len(images):
            feed = {"images": images.float().cpu().contiguous().numpy()}
            logits, features = self._session.run(["logits", "features"], feed)
            return torch.from_numpy(logits), torch.from_numpy(features)
        with torch.no_grad():
            logits, features = self._net(images.to(self._device))
        return logits.to(images.device), features.to(images.device)


class _Outputs(nn.Module):
    """Images -> (logits, features)."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Both:
        features = self.model.features(images)
        return self.model.logits(features), features


def _session(net: nn.Module, size: int) -> Any:
    """An onnxruntime session; its outputs are compared with torch's once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    names = ["logits", "features"]
    axes = {"images": {0: "N", 2: "H", 3: "W"}, "logits": {0: "N"}, "features": {0: "N"}}
    graph = trace(net, torch.rand(2, 3, size, size), ["images"], names, axes)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    probe = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(probe)
    for name, ours, theirs in zip(
        names, session.run(names, {"images": probe.numpy()}), expected, strict=True
    ):
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
) -> bytes:
    """Serialised ONNX of a module in evaluation mode, by torch's tracing exporter.

    The tracing exporter takes a second; torch's newer one took minutes with dynamic H and W.

    Args:
        net: a module of one tensor.
        example: what it is traced on.
        inputs: name of the input.
        outputs: names of the outputs.
        axes: name -> {axis: symbol} of the dynamic axes.
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
            opset_version=OPSET,
            dynamo=False,
        )
        return path.read_bytes()

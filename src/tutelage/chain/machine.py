"""The machine a run finds itself on: its device, its threads, and how fast it is."""

from __future__ import annotations

import ctypes
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tutelage.models.sizes import fitting_sizes, size_step, with_input_size
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically

if TYPE_CHECKING:
    from tutelage.models.classifier import Classifier


MEASURED_SIZE = 128  # side in pixels of the images that speed is measured on


def choose_device(name: str) -> torch.device:
    """The torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TutelageError: cuda was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise TutelageError("--device cuda: torch sees no CUDA device here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def configure(device: torch.device) -> None:
    """Process-wide settings that training needs; call once, before the first tensor of a run."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        return
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of handing them back to the system.

    Activations are allocated and freed every step; handing them back costs page faults that
    halve the speed of a training step on a CPU (measured: 60.7 -> 37.1 ms an image at 224 px).
    With another C library nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_mmap_threshold, 1 << 30)
        mallopt(m_trim_threshold, 2**31 - 1)


@dataclass(frozen=True)
class Speed:
    """Milliseconds per image of one architecture on one machine."""

    device: str  # "cpu" or "cuda"
    forward: float  # without gradients, at ``forward_size``
    train: float  # forward and backward, at ``train_size``
    forward_size: int  # side in pixels
    train_size: int  # side in pixels

    def forward_ms(self, size: int) -> float:
        """Estimated milliseconds of a forward at another size."""
        return self.forward * (size / self.forward_size) ** 2

    def train_ms(self, size: int) -> float:
        """Estimated milliseconds of forward and backward at another size."""
        return self.train * (size / self.train_size) ** 2


def measure_speed(model: Classifier, device: torch.device, cache: Path) -> Speed:
    """How fast ``model`` runs here; measured once and remembered in ``cache``.

    It is remembered because a plan must not change from one run to the next on the same machine.

    Args:
        model: the network, which is not changed.
        device: where it will run.
        cache: folder of the measurements.
    """
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    size = nearest_size(model, MEASURED_SIZE)
    key = "|".join(
        map(str, [_network(model), chip, torch.get_num_threads(), torch.__version__, size])
    )
    path = cache / "speed.json"
    known = _read(path)
    if known.get(key, {}).keys() == {field.name for field in fields(Speed)}:
        return Speed(**known[key])
    speed = _measure(model, device, size)
    cache.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**_read(path), key: asdict(speed)}, indent=2)
    write_atomically(path, content.encode())
    return speed


def _network(model: Classifier) -> str:
    """The architecture, and which part of it a cut model has."""
    spec = model.spec
    cut = f" cut:{spec.cut}" if spec.cut is not None else ""
    return f"{spec.architecture}{cut}{''.join(f' -{name}' for name in spec.skipped)}"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def nearest_size(model: Classifier, size: int) -> int:
    """The side of a view nearest to ``size`` that the model takes; its own if it takes no other."""
    step = size_step(model)
    return model.spec.input_size if step is None else fitting_sizes([size], step)[0]


def _measure(model: Classifier, device: torch.device, size: int) -> Speed:
    import copy

    from tutelage.models.forward import Forward

    generator = torch.Generator().manual_seed(0)
    # A GPU is measured at about a step's batch: with fewer images, launches take most of the time.
    count = 128 if device.type == "cuda" else 32
    images = torch.rand(count, 3, size, size, generator=generator).to(device)
    model = with_input_size(model, size)
    trained = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    trained.unfreeze_trunk()
    forward = Forward(trained if device.type == "cuda" else model, "features")

    def backward() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = trained(images).square().mean()
        loss.backward()

    return Speed(
        device=device.type,
        forward=_fastest(lambda: forward(images), device) / len(images),
        train=_fastest(backward, device) / len(images),
        forward_size=size,
        train_size=size,
    )


def _fastest(call: Callable[[], object], device: torch.device, repeats: int = 4) -> float:
    """Milliseconds of the fastest call after one that warms up: other jobs only ever add time."""
    best = float("inf")
    for number in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            best = min(best, (time.perf_counter() - start) * 1e3)
    return best

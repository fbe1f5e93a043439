"""The machine a run finds itself on: its device, its threads, and how fast it is."""

from __future__ import annotations

import copy
import ctypes
import json
import math
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from tutelage.augment.engine import ahead, trial
from tutelage.models.classifier import Classifier
from tutelage.models.forward import Forward
from tutelage.models.sizes import fitting_sizes, size_step, with_input_size
from tutelage.models.zoo import first_trunk
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically

MEASURED_SIZE = 128  # side in pixels of the images that speed is measured on
USUAL = (0.8, 1.2)  # times the remembered milliseconds; within, the machine is as it was
# Forwards that tell how busy the machine is, and the seconds after which fewer must do.
_LOOKS, _LOOK_S = 8, 1.0


def choose_device(name: str) -> torch.device:
    """The torch device for ``auto``, ``cpu`` or ``cuda``."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise TutelageError("--device cuda: torch sees no CUDA device here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def augmented_by(device: torch.device) -> tuple[list[str], list[str]]:
    """What a run on a GPU says of its augmentation: facts, and notes if the kernels fail there."""
    if device.type != "cuda":
        return [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run says it itself
        fault = trial.fault(device)
    if fault is not None:
        return [], [fault]
    tried = f"whose views of {trial.IMAGES} images are those of plain torch"
    return [f"images were augmented by the Triton kernels, {tried}"], []


def configure(device: torch.device) -> None:
    """Process-wide settings that training needs; call once, before the first tensor of a run."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
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
    """Milliseconds per image of one architecture, or of several trunks, on one machine."""

    device: str  # "cpu" or "cuda"
    forward: float  # without gradients, at ``forward_size``
    train: float  # forward and backward, at ``train_size``; of several trunks, the first alone
    forward_size: int  # side in pixels
    train_size: int  # side in pixels
    busy: float = 1.0  # how many times as long all takes beside other jobs; included above

    def forward_ms(self, size: int) -> float:
        """Estimated milliseconds of a forward at another size."""
        return self.forward * (size / self.forward_size) ** 2

    def train_ms(self, size: int) -> float:
        """Estimated milliseconds of forward and backward at another size."""
        return self.train * (size / self.train_size) ** 2


def current_speed(model: Classifier, device: torch.device, cache: Path) -> Speed:
    """How fast ``model`` runs here now: as is remembered, unless the machine is much slower.

    A machine that does other work, too, is taken to be slower by a power of 1.25, so that the same
    load leads to the same plan. What is remembered is measured anew where it was too slow: the
    machine may have been busy then.
    """
    ahead.wait()  # a compiler at work beside it would make the machine look slow
    speed = measure_speed(model, device, cache)
    factor = _busyness(model, device, speed)
    if factor < USUAL[0]:
        return measure_speed(model, device, cache, anew=True)
    if factor < USUAL[1]:
        return speed
    factor = 1.25 ** round(math.log(factor, 1.25))
    forward, train = speed.forward * factor, speed.train * factor
    return replace(speed, forward=forward, train=train, busy=speed.busy * factor)


def measure_speed(
    model: Classifier, device: torch.device, cache: Path, *, anew: bool = False
) -> Speed:
    """How fast ``model`` runs here; measured once and remembered in the folder ``cache``.

    A plan must not change from one run to the next on the same machine. ``anew`` asks nothing that
    is remembered.
    """
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    size = nearest_size(model, MEASURED_SIZE)
    network = " + ".join(  # with the part of each that a cut model has
        f"{spec.architecture}{'' if spec.cut is None else f' cut:{spec.cut}'}"
        f"{''.join(f' -{name}' for name in spec.skipped)}"
        for spec in model.spec.trunks
    )
    key = "|".join(map(str, [network, chip, torch.get_num_threads(), torch.__version__, size]))
    path = cache / "speed.json"
    known = _read(path)
    if not anew and known.get(key, {}).keys() == {field.name for field in fields(Speed)}:
        return Speed(**known[key])
    speed = _measure(model, device, size)
    cache.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**_read(path), key: asdict(speed)}, indent=2)
    write_atomically(path, content.encode())
    return speed


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
    model = with_input_size(model, size)
    images = _images(size, device)

    def placed(net: Classifier) -> Classifier:
        return copy.deepcopy(net).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    trained = placed(first_trunk(model)).train()
    trained.unfreeze_trunk()
    forward = Forward(placed(model) if device.type == "cuda" else model, "features")

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


def _images(size: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    # A GPU is measured at about a step's batch: with fewer images, launches take most of the time.
    count = 128 if device.type == "cuda" else 32
    return torch.rand(count, 3, size, size, generator=generator).to(device)


def _busyness(model: Classifier, device: torch.device, speed: Speed) -> float:
    """How many times as long as is remembered a forward takes here now, in the median."""
    images = _images(speed.forward_size, device)
    sized = with_input_size(model, speed.forward_size)
    forward = Forward(copy.deepcopy(sized).to(device), "features")
    calls, began = [_timed(lambda: forward(images), device)], time.perf_counter()
    while len(calls) <= _LOOKS and time.perf_counter() - began < _LOOK_S:
        calls.append(_timed(lambda: forward(images), device))
    return statistics.median(calls[1:]) / (speed.forward * len(images))


def _fastest(call: Callable[[], object], device: torch.device, repeats: int = 4) -> float:
    """Milliseconds of the fastest call after one that warms up: other jobs only ever add time."""
    return min([_timed(call, device) for _ in range(repeats + 1)][1:])


def _timed(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3

"""Checkpoints within a training: all that the next step depends on, in files that can be verified.

A checkpoint is one safetensors file whose name holds the step and a digest of its bytes. It is
written beside its place, flushed and renamed, so a kill leaves no half of it. If the disk damages
one later, its digest shows it, and the one before it is used.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tutelage.system.files import digest, write_atomically
from tutelage.system.ranks import agreed, is_lead

KEPT = 2  # checkpoints of a training: the newest, and one to fall back on


@dataclass(frozen=True)
class Checkpoint:
    """A training after ``step`` steps: its tensors by name, and facts of JSON's types."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Trainings:
    """The checkpoints of the stage that is running, in one folder for each of its trainings.

    They lie beside the stage's folder until the stage is kept there.
    """

    def __init__(self, every: float, say: Callable[[str], None]) -> None:
        """Save every ``every`` seconds, or after each step if 0; ``say`` reports damaged files."""
        self.every, self.say = every, say
        self._stage: Path | None = None
        self._count, self._began = 0, 0.0

    @contextmanager
    def of(self, stage: Path) -> Iterator[Callable[[], float]]:
        """While a stage that will be kept in the folder ``stage`` runs; yields ``seconds``."""
        self._stage, self._count, self._began = stage, 0, time.monotonic()
        try:
            yield self.seconds
        finally:
            self._stage = None

    def forget(self, stage: Path) -> None:
        """Delete the checkpoints of a stage that is kept."""
        shutil.rmtree(_beside(stage), ignore_errors=True)

    def next(self) -> Checkpoints | None:
        """The checkpoints of the stage's next training; None while no stage is running.

        A stage repeats its trainings in the same order.
        """
        if self._stage is None:
            return None
        self._count += 1
        name = f"{self._stage.name}, training {self._count}"
        return Checkpoints(_beside(self._stage) / str(self._count), self, name=name)

    def seconds(self) -> float:
        """Seconds of the stage that is running so far, also those before it was cut off, or 0."""
        return 0.0 if self._stage is None else time.monotonic() - self._began

    def credit(self, seconds: float) -> None:
        """Count the seconds that the stage had taken before it went on from a checkpoint."""
        self._began = min(self._began, time.monotonic() - seconds)


class Checkpoints:
    """The checkpoints of one training; its ``name`` tells it from the run's others."""

    def __init__(self, folder: Path, trainings: Trainings, *, name: str = "") -> None:
        self._folder, self._trainings, self.name = folder, trainings, name
        self._last = time.monotonic()

    def newest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, the lead's on every rank; damaged ones are reported."""
        name = agreed(self._newest_whole() if is_lead() else None)
        if name is None:
            return None
        found = _read((self._folder / name).read_bytes())
        self._trainings.credit(found.facts["seconds"])
        return found

    def _newest_whole(self) -> str | None:
        for path in self._files():
            content = path.read_bytes()
            try:
                if digest(content) != path.stem.partition("-")[2]:
                    raise ValueError("its bytes are not those that were written")
                _read(content)
            except (ValueError, KeyError, SafetensorError) as error:
                self._trainings.say(f"checkpoint {path} is damaged and is not used: {error}")
                continue
            return path.name
        return None

    def due(self) -> bool:
        """Whether the last checkpoint, or the start, is long enough ago for the next one."""
        return time.monotonic() - self._last >= self._trainings.every

    def save(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write one and delete all but the ``KEPT`` newest; the lead does it for all ranks."""
        if is_lead():
            self._write(step, tensors, facts)
        self._last = time.monotonic()

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        facts = {"step": step, "seconds": self._trainings.seconds(), **facts}
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = save(plain, {"facts": json.dumps(facts)})
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / f"{step:08d}-{digest(content)}.safetensors", content)
        for old in self._files()[KEPT:]:
            old.unlink()

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted(self._folder.glob("[0-9]*.safetensors"), reverse=True)


def _beside(stage: Path) -> Path:
    return stage.with_name(f".{stage.name}.trainings")


def _read(content: bytes) -> Checkpoint:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    facts = json.loads(header["__metadata__"]["facts"])
    return Checkpoint(facts["step"], load(content), facts)

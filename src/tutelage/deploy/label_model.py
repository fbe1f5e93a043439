"""Which files answer for a pool's images, and opening them here or on another machine."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tutelage.deploy.find import FoundModel, open_folder
from tutelage.deploy.label_table import PoolModel
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import MissingExtra, need


@dataclass(frozen=True)
class ModelFiles:
    """An exported file, for onnxruntime; or the two files of a model folder, for torch."""

    paths: tuple[Path, ...]

    @property
    def exported(self) -> bool:
        """Whether it is an exported file."""
        return len(self.paths) == 1

    def digest(self) -> str:
        """A text that changes with the model."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            with path.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "blake2b").digest())
        return digest.hexdigest()

    def open(self, device: str = "cpu") -> PoolModel:
        """The model, with one core a batch if it is exported, and else on a device of torch.

        Raises:
            MissingExtra: a model folder, and torch is not installed.
            TutelageError: the model is damaged, or not one of tutelage.
        """
        if self.exported:
            return OnnxModel(self.paths[0], threads=1)
        folder: PoolModel = open_folder(self.paths[0].parent, device)
        return folder


def files_of(found: FoundModel) -> ModelFiles:
    """Those of a model folder if that was given and torch is there, or else the exported file."""
    if found.folder is not None and found.folder == found.given:
        weights = (found.folder / "model.json", found.folder / "model.safetensors")
        if found.exported is None or _has_torch():  # opening says what to install
            return ModelFiles(weights)
    assert found.exported is not None
    return ModelFiles((found.exported,))


def _has_torch() -> bool:
    try:
        need("torch", "train")
    except MissingExtra:
        return False
    return True


@dataclass(frozen=True)
class PackedModel:
    """The content of a model's files, which travels to machines that do not have them."""

    contents: tuple[tuple[str, bytes], ...]  # name, bytes
    device: str

    def open(self) -> PoolModel:
        """Open it here, as ``ModelFiles.open`` does; nothing is left on the disk."""
        with tempfile.TemporaryDirectory() as place:
            files = ModelFiles(tuple(Path(place, name) for name, _ in self.contents))
            for path, (_, content) in zip(files.paths, self.contents, strict=True):
                path.write_bytes(content)
            return files.open(self.device)


def packed(files: ModelFiles, device: str) -> PackedModel:
    """The files' content, to be opened on ``device``."""
    return PackedModel(tuple((path.name, path.read_bytes()) for path in files.paths), device)

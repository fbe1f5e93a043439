"""Images in WebDataset tars. No torch."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path


def write_tar(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    """A tar of these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def tar_tree(data: Path, out: Path, *, per_tar: int = 10) -> Path:
    """The images of a DATA folder (train/<class>/*, unlabeled/*, ...) as tars of a few each."""
    for split in sorted(data.iterdir()):
        images = sorted(path for path in split.rglob("*") if path.is_file())
        for start in range(0, len(images), per_tar):
            files = []
            for path in images[start : start + per_tar]:
                name = path.relative_to(split).as_posix()
                files.append((name, path.read_bytes()))
                if path.parent != split:
                    files.append((f"{name.rpartition('.')[0]}.cls", path.parent.name.encode()))
            write_tar(out / f"{split.name}-{start // per_tar:04d}.tar", files)
    return out

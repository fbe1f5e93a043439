"""The command ``pseudo-label``: finds model and shards, labels these, lists what is accepted.

``label_shards`` shares the work among processes, ``label_table`` is the file of one shard, and
``label_accepted`` the manifest of the accepted images. An exported model needs no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tutelage.data.shards import find_shards
from tutelage.deploy.find import FoundModel, find_model, open_folder
from tutelage.deploy.label_accepted import check_manifest, write_accepted
from tutelage.deploy.label_shards import Pool, label_shards
from tutelage.deploy.label_table import Engine
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.console import Console
from tutelage.system.cores import cores
from tutelage.system.errors import MissingExtra, TutelageError, need
from tutelage.system.ranks import env_int


def pseudo_label(
    model: Path,
    images: Path | str | Iterable[Path | str],
    out: Path,
    *,
    threshold: float,
    accepted: Path | None,
    quiet: bool,
) -> dict[str, Any] | None:
    """Label a pool; ``tutelage.api.pseudo_label`` has the arguments."""
    if not 0 <= threshold <= 1:
        raise TutelageError(f"--threshold {threshold}: expected a probability, from 0 to 1")
    need("pyarrow", "train")
    images = [images] if isinstance(images, str | Path) else list(images)
    inside = [p for p in map(Path, images) if out.resolve().is_relative_to(p.resolve())]
    if inside:
        raise TutelageError(f"--out {out} lies in {inside[0]}, whose images are labelled; move it")
    found = find_model(model)
    shards = find_shards(images)
    if accepted is not None:
        check_manifest(accepted, shards)
    summary = label_shards(
        Pool(shards, out, *_opened(found), threshold, Console(quiet=quiet)),
        workers=max(1, cores() // env_int("LOCAL_WORLD_SIZE", 1)),
        rank=env_int("RANK", 0),
        world=env_int("WORLD_SIZE", 1),
    )
    if summary is None:
        return None
    if accepted is not None:
        write_accepted(shards, out, accepted)
    if failed := summary["failed"]:
        raise TutelageError(
            f"{len(failed)} of {len(shards)} shards could not be read (first: "
            f"{failed[0]['shard']}: {failed[0]['reason']}); the others are labelled. Mend "
            f"{'it' if len(failed) == 1 else 'them'} and repeat the command, which tries them again"
        )
    return summary


def _opened(found: FoundModel) -> tuple[Engine, str]:
    """The engine, and a digest of its files: torch for a model folder if it can, or onnxruntime."""
    if found.folder is not None and found.folder == found.given:
        gpus = _gpus(exported=found.exported is not None)
        if gpus is not None:  # several processes may share one, since decoding is slower
            device = f"cuda:{env_int('LOCAL_RANK', 0) % gpus}" if gpus else "cpu"
            weights = [found.folder / "model.json", found.folder / "model.safetensors"]
            return open_folder(found.folder, device), _digest_of(weights)
    assert found.exported is not None
    return OnnxModel(found.exported, threads=1), _digest_of([found.exported])


def _gpus(*, exported: bool) -> int | None:
    """How many GPUs torch has; None without torch, which only an exported model can do without."""
    try:
        count: int = need("torch", "train").cuda.device_count()
    except MissingExtra:
        return None if exported else 0  # opening the folder says what to install
    return count


def _digest_of(files: Iterable[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()

"""The command ``label``: opens the model, finds the shards, labels them, lists what is accepted.

``label_shards`` shares the work among processes, ``label_table`` is the file of one shard, and
``label_accepted`` the manifest of the accepted images. An exported model needs no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.data.shards import find_shards
from tutelage.deploy.label_accepted import check_manifest, write_accepted
from tutelage.deploy.label_shards import Pool, label_shards
from tutelage.deploy.label_table import Engine
from tutelage.deploy.predict import exported_file
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.console import Console
from tutelage.system.cores import cores
from tutelage.system.errors import TutelageError, need
from tutelage.system.ranks import env_int


def pseudo_label(
    model: Path,
    images: Sequence[Path | str],
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
    inside = [p for p in map(Path, images) if out.resolve().is_relative_to(p.resolve())]
    if inside:
        raise TutelageError(f"--out {out} lies in {inside[0]}, whose images are labelled; move it")
    path = exported_file(model)
    shards = find_shards(images)
    if accepted is not None:
        check_manifest(accepted, shards)
    summary = label_shards(
        Pool(shards, out, _engine(path), _digest_of(path), threshold, Console(quiet=quiet)),
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


def _engine(path: Path) -> Engine:
    if not path.is_dir():
        return OnnxModel(path, threads=1)
    need("torch", "train")
    import torch

    from tutelage.deploy.graph import TorchModel
    from tutelage.models.folder import load_model

    gpus = torch.cuda.device_count()  # several processes may share one, since decoding is slower
    device = f"cuda:{env_int('LOCAL_RANK', 0) % gpus}" if gpus else "cpu"
    return TorchModel(load_model(path), device)


def _digest_of(model: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in (model / "model.json", model / "model.safetensors") if model.is_dir() else (model,):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()

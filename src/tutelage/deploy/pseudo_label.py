"""The command ``pseudo-label``: finds model and shards, labels these, lists what is accepted.

``label_shards`` labels, ``label_table`` is the file of one shard, ``label_folder`` the place of all
of them, and ``label_accepted`` the manifest of the accepted images. An exported model needs no
torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tutelage.data.shards import find_shards
from tutelage.deploy.find import FoundModel, find_model, open_folder
from tutelage.deploy.label_accepted import check_manifest, write_accepted
from tutelage.deploy.label_folder import LabelFolder
from tutelage.deploy.label_shards import Labelling, Share, label_shards
from tutelage.deploy.label_table import PoolModel
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.console import Console
from tutelage.system.cores import cores
from tutelage.system.engines import Local, Resources
from tutelage.system.errors import MissingExtra, TutelageError, need
from tutelage.system.ranks import env_int

AT_ONCE = 2  # shards in this process: one is read while the other is copied here, or written


def pseudo_label(
    model: Path,
    images: Path | str | Iterable[Path | str],
    out: Path,
    *,
    threshold: float,
    accepted: Path | None,
    share: str | None,
    quiet: bool,
) -> dict[str, Any] | None:
    """Label a pool; ``tutelage.api.pseudo_label`` has the arguments."""
    if not 0 <= threshold <= 1:
        raise TutelageError(f"--threshold {threshold}: expected a probability, from 0 to 1")
    taken = _share(share)
    need("pyarrow", "train")
    images = [images] if isinstance(images, str | Path) else list(images)
    inside = [p for p in map(Path, images) if out.resolve().is_relative_to(p.resolve())]
    if inside:
        raise TutelageError(f"--out {out} lies in {inside[0]}, whose images are labelled; move it")
    found = find_model(model)
    shards = find_shards(images)
    if accepted is not None:
        check_manifest(accepted, shards)
    folder = LabelFolder(out)
    opened, digest = _opened(found)
    labelling = Labelling(
        folder,
        digest,
        opened.classes,
        threshold,
        lambda: opened,
        workers=max(1, cores() // env_int("LOCAL_WORLD_SIZE", 1)),
    )
    summary, failed = label_shards(
        labelling, shards, Local(AT_ONCE), Resources(), share=taken, console=Console(quiet=quiet)
    )
    if summary is not None and accepted is not None:
        write_accepted(shards, folder, accepted)
    _complain(summary["failed"] if summary else failed, len(shards))
    return summary


def _share(text: str | None) -> Share:
    """This process's part of the shards: ``text``, divided further by torchrun's ranks."""
    number, of = 1, 1
    if text is not None:
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        number, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= of:
            raise TutelageError(
                f"--share {text}: expected i/n, part i of n, such as 1/4, 2/4, 3/4 and 4/4"
            )
    return Share(number + of * env_int("RANK", 0), of * env_int("WORLD_SIZE", 1))


def _complain(failed: list[dict[str, str]], shards: int) -> None:
    if failed:
        raise TutelageError(
            f"{len(failed)} of {shards} shards could not be read (first: "
            f"{failed[0]['shard']}: {failed[0]['reason']}); the others are labelled. Mend "
            f"{'it' if len(failed) == 1 else 'them'} and repeat the command, which tries them again"
        )


def _opened(found: FoundModel) -> tuple[PoolModel, str]:
    """The model, and a digest of its files: torch for a model folder if it can, or onnxruntime."""
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

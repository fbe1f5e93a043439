"""The command ``pseudo-label``: finds model and shards, labels these, lists what is accepted.

``label_shards`` labels, with the model of ``label_model``. ``label_table`` is the file of one
shard, ``label_folder`` the place of all of them, and ``label_accepted`` the manifest of the
accepted images. An exported model needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.shards import find_shards, may_hold
from tutelage.deploy.find import find_model
from tutelage.deploy.label_accepted import check_manifest, write_accepted
from tutelage.deploy.label_folder import LabelFolder
from tutelage.deploy.label_model import ModelFiles, files_of, packed
from tutelage.deploy.label_shards import Labelling, Share, label_shards
from tutelage.deploy.label_table import PoolModel
from tutelage.system.console import Console
from tutelage.system.cores import cores
from tutelage.system.engines import Engine, Local, Ray, Resources, asked_cluster, with_gpu
from tutelage.system.errors import TutelageError, need
from tutelage.system.ranks import env_int
from tutelage.system.storage import Place
from tutelage.system.words import counted

AT_ONCE = 2  # shards in this process: one is read while the other is copied here, or written


def pseudo_label(
    model: Path,
    images: Path | str | Iterable[Path | str],
    out: Path | str,
    *,
    threshold: float,
    accepted: Path | str | None,
    engine: str,
    address: str | None,
    share: str | None,
    quiet: bool,
) -> dict[str, Any] | None:
    """Label a pool; ``tutelage.api.pseudo_label`` has the arguments."""
    if not 0 <= threshold <= 1:
        raise TutelageError(f"--threshold {threshold}: expected a probability, from 0 to 1")
    taken, cluster = _share(share), asked_cluster(engine, address)
    if cluster is not None and taken.of > 1:
        raise TutelageError(
            "--engine ray divides the work among the nodes of its cluster by itself; leave out "
            "--share, and start it without torchrun"
        )
    need("pyarrow", "train")
    images = [images] if isinstance(images, str | Path) else list(images)
    place = Place.at(out)
    if place.name.startswith(("http://", "https://")):
        raise TutelageError(
            f"--out {out}: expected a folder, or a store such as s3://bucket/labels"
        )
    if inside := [one for one in images if Place.at(one).holds(place) or may_hold(one, place)]:
        raise TutelageError(f"--out {out} lies in {inside[0]}, whose images are labelled; move it")
    files = files_of(find_model(model))
    shards = find_shards(images)
    manifest = None if accepted is None else check_manifest(accepted, shards)
    folder, console = LabelFolder(place.absolute()), Console(quiet=quiet)
    with _here(files) if cluster is None else _by_ray(cluster, files, console) as means:
        labelling = Labelling(
            folder, files.digest(), means.classes, threshold, means.open_model, means.workers
        )
        summary, failed = label_shards(
            labelling, shards, means.engine, means.resources, share=taken, console=console
        )
    if summary is None:
        _complain(failed, len(shards), taken)
        return None
    _complain(summary["failed"], len(shards), taken, manifest)
    if manifest is not None:
        write_accepted(shards, folder, manifest)
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


def _complain(
    failed: list[dict[str, str]], shards: int, taken: Share, manifest: Path | None = None
) -> None:
    """Refuse shards that could not be read; then no manifest is written."""
    if not failed:
        return
    them = "it" if len(failed) == 1 else "them"
    again = "command, which tries" if taken.of == 1 else "commands of all shares, which try"
    of_this = "" if taken.of == 1 else " of this share"
    left = "" if manifest is None else f", and {manifest} is written when all are labelled"
    raise TutelageError(
        f"{len(failed)} of {shards} shards could not be read (first: {failed[0]['shard']}: "
        f"{failed[0]['reason']}); the others{of_this} are labelled{left}. "
        f"Mend {them} and repeat the {again} {them} again"
    )


@dataclass(frozen=True)
class _Means:
    """What a pool is labelled with: see ``Labelling`` and ``Engine.map``."""

    engine: Engine
    resources: Resources
    classes: tuple[str, ...]
    open_model: Callable[[], PoolModel]
    workers: int


@contextmanager
def _here(files: ModelFiles) -> Iterator[_Means]:
    """This process and its share of the machine."""
    gpus = 0 if files.exported else need("torch", "train").cuda.device_count()
    # Several processes may share a GPU, since decoding is slower.
    model = files.open(f"cuda:{env_int('LOCAL_RANK', 0) % gpus}" if gpus else "cpu")
    workers = max(1, cores() // env_int("LOCAL_WORLD_SIZE", 1))
    yield _Means(Local(AT_ONCE), Resources(), model.classes, lambda: model, workers)


@contextmanager
def _by_ray(engine: Ray, files: ModelFiles, console: Console) -> Iterator[_Means]:
    """A Ray cluster, whose nodes need nothing but the images and the folder for the labels."""
    classes = files.open().classes
    with engine.connected() as nodes:
        console.say(
            f"Ray: {counted(len(nodes), 'node')}, "
            f"{counted(int(sum(node.cores for node in nodes)), 'core')}, "
            f"{counted(int(sum(node.gpus for node in nodes)), 'GPU')}"
        )
        # Of two shards on a GPU, one is copied or decoded while it computes for the other.
        share = None if files.exported else with_gpu(nodes, 0.5)
        if share is not None:
            opening = packed(files, "cuda").open
            yield _Means(engine, share, classes, opening, workers=int(share.cores))
        else:
            # No shard waits for another, so cores are best used by as many shards.
            yield _Means(engine, Resources(), classes, packed(files, "cpu").open, workers=1)

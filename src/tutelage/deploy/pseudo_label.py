"""The command ``pseudo-label``: labels for a pool of shards, each one piece of an engine's work.

The labels of a shard appear under their final name only when they are complete, and their footer
says what they were made from; where they are found, the shard is not labelled again. So a command
that was cut off continues, several may have a share of the shards each, and an engine may begin a
shard anew when the process or the machine that labelled it is lost.

Memory holds some dozens of images, however large a shard or the pool is. An exported model needs no
torch.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import re
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tutelage._version import __version__
from tutelage.data.decode import UnreadableImage, decode, why_skipped
from tutelage.data.shards import Read, Shard, find_shards, may_hold
from tutelage.deploy.find import FoundModel, find_model, open_folder
from tutelage.deploy.label_files import (
    COUNTS,
    LABELS,
    SUMMARY,
    LabelFolder,
    Part,
    PoolModel,
    about,
    as_text,
    check_manifest,
    write_accepted,
    write_labels,
)
from tutelage.deploy.runtime import BATCH_PIXELS, OnnxModel
from tutelage.system.console import Console
from tutelage.system.engines import Engine, Local, Lost, Resources, asked_cluster, with_gpu
from tutelage.system.errors import TutelageError, need
from tutelage.system.process import cores
from tutelage.system.ranks import env_int
from tutelage.system.storage import Place
from tutelage.system.words import are, counted

FORMAT = 1  # of the folder: raise it when old outputs would be read wrongly
AT_ONCE = 2  # shards in this process: one is read while the other is copied here, or written
_ASKED = 8  # footers read at once: a store far away takes its time to answer
_AHEAD = 4  # batches per thread that are read and answered before they are written

Entries: TypeAlias = Iterator[tuple[str, Read]]


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
    if cluster is not None and taken[1] > 1:
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
    files = model_files(find_model(model))
    shards = find_shards(images)
    manifest = None if accepted is None else check_manifest(accepted, shards)
    folder, console = LabelFolder(place.absolute()), Console(quiet=quiet)
    opening: Callable[[], PoolModel]
    with ExitStack() as stack:
        if cluster is None:
            gpus = 0 if len(files) == 1 else need("torch", "train").cuda.device_count()
            # Several processes may share a GPU, since decoding is slower.
            device = f"cuda:{env_int('LOCAL_RANK', 0) % gpus}" if gpus else "cpu"
            opened = open_files(files, device)
            opening, workers = lambda: opened, max(1, cores() // env_int("LOCAL_WORLD_SIZE", 1))
            means: tuple[Engine, Resources] = Local(AT_ONCE), Resources()
        else:
            opened = open_files(files)
            nodes = stack.enter_context(cluster.connected())
            console.say(
                f"Ray: {counted(len(nodes), 'node')}, "
                f"{counted(int(sum(node.cores for node in nodes)), 'core')}, "
                f"{counted(int(sum(node.gpus for node in nodes)), 'GPU')}"
            )
            each, device, workers = of_cluster(nodes, exported=len(files) == 1)
            # The nodes need nothing but the images and the folder for the labels.
            contents = {path.name: path.read_bytes() for path in files}
            opening, means = partial(open_contents, contents, device), (cluster, each)
        labelling = Labelling(folder, digest_of(files), opened.classes, threshold, opening, workers)
        summary, failed = label_shards(labelling, shards, *means, share=taken, console=console)
    if failed:
        left = "" if manifest is None else f", and {manifest} is written when all are labelled"
        raise TutelageError(
            f"{len(failed)} of {len(shards)} shards could not be read "
            f"(first: {failed[0]['shard']}: {failed[0]['reason']}); what else this command had to "
            f"label is labelled{left}. Mend them and repeat the command, which tries them again"
        )
    if summary is not None and manifest is not None:
        write_accepted(shards, folder, manifest)
    return summary


def _share(text: str | None) -> tuple[int, int]:
    """Part i of n of the shards for this process: ``text``, divided further by torchrun's ranks."""
    number, of = 1, 1
    if text is not None:
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        number, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= of:
            raise TutelageError(
                f"--share {text}: expected i/n, part i of n, such as 1/4, 2/4, 3/4 and 4/4"
            )
    return number + of * env_int("RANK", 0), of * env_int("WORLD_SIZE", 1)


def of_cluster(nodes: Sequence[Resources], *, exported: bool) -> tuple[Resources, str, int]:
    """What a shard takes of a cluster's nodes, and the device and the threads that it has there."""
    # Of two shards on a GPU, one is copied or decoded while it computes for the other.
    share = None if exported else with_gpu(nodes, 0.5)
    if share is not None:
        return share, "cuda", int(share.cores)
    return Resources(), "cpu", 1  # no shard waits for another, so cores are best used by as many


def model_files(found: FoundModel) -> list[Path]:
    """An exported file, for onnxruntime; or the two files of a model folder, for torch.

    The folder, if that was given, and torch is there.
    """
    own = found.folder if found.folder == found.given else None
    if own is not None and (found.exported is None or find_spec("torch") is not None):
        return [own / "model.json", own / "model.safetensors"]  # opening says what to install
    assert found.exported is not None
    return [found.exported]


def digest_of(files: Sequence[Path]) -> str:
    """A text that changes with the model."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        with path.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()


def open_files(files: Sequence[Path], device: str = "cpu") -> PoolModel:
    """The model, with one core a batch if it is exported, and else on a device of torch."""
    if len(files) == 1:
        return OnnxModel(files[0], threads=1)
    folder: PoolModel = open_folder(files[0].parent, device)
    return folder


def open_contents(contents: Mapping[str, bytes], device: str) -> PoolModel:
    """The same from names and contents, where the files are not; it leaves nothing on the disk."""
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, name) for name in contents]
        for path in files:
            path.write_bytes(contents[path.name])
        return open_files(files, device)


@dataclass(frozen=True)
class Labelling:
    """How the shards of a pool are labelled; it travels to the processes that do it."""

    out: LabelFolder
    model: str  # a text that changes with the model
    classes: tuple[str, ...]
    threshold: float  # the confidence that a pseudo-label needs to be accepted, in [0, 1]
    open_model: Callable[[], PoolModel]
    workers: int  # threads of a process that decode, and run an exported model

    @contextmanager
    def opened(self) -> Iterator[Callable[[Shard], Outcome]]:
        """The function that labels one shard, for several threads at once; an ``Opening``."""
        self.out.check()
        stop = threading.Event()
        readers = ThreadPoolExecutor(self.workers, thread_name_prefix="label")
        try:
            yield _Labeller(self, self.open_model(), readers, stop).label
        finally:
            stop.set()
            readers.shutdown(cancel_futures=True)


class Outcome(NamedTuple):
    """What there is to say about a shard that was labelled, or could not be."""

    message: str | None = None
    failure: str | None = None  # why it has no labels


def label_shards(
    labelling: Labelling,
    shards: Sequence[Shard],
    engine: Engine,
    resources: Resources,
    *,
    share: tuple[int, int] = (1, 1),
    console: Console,
) -> tuple[dict[str, Any] | None, list[dict[str, str]]]:
    """Label part i of n of the shards, unless they have labels, each into a file of its own.

    ``shards`` are those of the whole pool, the same for all processes, and one at a time takes
    ``resources`` of the engine. Returns the content of ``label.json``, or None while shards of
    other shares are not labelled; and the shards of this share that could not be read.
    """
    need("pyarrow.parquet", "train")
    (number, of), out = share, labelling.out
    mine = shards[number - 1 :: of]  # spread over the whole pool
    with out.claimed(f"share-{number}-of-{of}"):
        out.pin({"format": FORMAT, "model": labelling.model, "threshold": labelling.threshold,
                 "classes": list(labelling.classes)})  # fmt: skip
        out.sweep(mine)
        reasons: dict[str, str] = {}
        with (
            console.bar("label", len(mine), "shard") as done,
            closing(engine.map(labelling.opened, mine, resources)) as results,
        ):
            for count, (shard, result) in enumerate(results, 1):
                outcome = Outcome(failure=result.reason) if isinstance(result, Lost) else result
                if outcome.message is not None:
                    console.say(outcome.message)
                if outcome.failure is not None:
                    console.say(f"{shard.name} is left out: {outcome.failure}")
                    reasons[shard.name] = outcome.failure
                done(count)
        out.sweep(mine)  # of processes that were killed, and whose shards others labelled
        names = [shard.name for shard in mine if shard.name in reasons]
        failed = [{"shard": name, "reason": reasons[name]} for name in names]
        return _summarise(labelling, shards, failed, console), failed


class _Unreadable(Exception):
    """A shard cannot be read to its end."""


@contextmanager
def _reading() -> Iterator[None]:
    """Tell what is wrong with a shard from what ends the command."""
    try:
        yield
    except (TutelageError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # there is no room here for the copy of any shard
        raise _Unreadable(str(error)) from error


@dataclass
class _Labeller:
    """Labels shards with an open model.

    Of several shards at once only one is read: the threads are better busy with one than with
    two that end at the same time. The others are opened meanwhile, which may mean to copy them
    from far away, or written to their end.
    """

    labelling: Labelling
    model: PoolModel
    readers: ThreadPoolExecutor
    stop: threading.Event
    turn: threading.Lock = field(default_factory=threading.Lock)  # to be read

    def label(self, shard: Shard) -> Outcome:
        """Write the labels of a shard, unless they are there."""
        file = self.labelling.out.labels_of(shard)
        try:
            # From before the first byte is read: a shard that changes meanwhile will not match it.
            fingerprint = shard.fingerprint()
        except OSError as error:
            return Outcome(failure=str(error))
        known, message = about(file), None
        if known is not None:
            if known["fingerprint"] == fingerprint:
                return Outcome()
            message = f"{shard.name} has changed since it was labelled: it is labelled anew"
        elif file.exists():
            message = f"{file} is damaged: {shard.name} is labelled anew"
        facts = {
            "format": FORMAT,
            "shard": shard.name,
            "fingerprint": fingerprint,
            "model": self.labelling.model,
            "threshold": self.labelling.threshold,
            "version": __version__,
        }
        try:
            with ExitStack() as stack:
                with _reading():
                    entries = stack.enter_context(shard.opened(self.stop))
                parts = stack.enter_context(closing(self._parts(entries)))
                with file.replacing() as whole:
                    write_labels(whole, parts, self.model, facts)
        except _Unreadable as error:
            if self.stop.is_set():  # which ends the copying of a shard, too
                raise
            return Outcome(message, str(error))
        return Outcome(message)

    def _parts(self, entries: Entries) -> Generator[Part, None, None]:
        """The parts of a shard in order; the threads are some batches ahead of them."""
        ahead: deque[Future[Part]] = deque()
        with self.turn:
            while chunk := self._chunk(entries):
                ahead.append(self.readers.submit(self._look, chunk))
                if len(ahead) > self.labelling.workers * _AHEAD:
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _chunk(self, entries: Entries) -> list[tuple[str, Read]]:
        with _reading():
            return list(itertools.islice(entries, self.model.batch))

    def _look(self, chunk: Sequence[tuple[str, Read]]) -> Part:
        """Read, decode and prepare some images, fewer at a time when they are large."""
        part = Part([], [], [])
        images: list[np.ndarray] = []
        for name, read in chunk:
            reason = None
            with _reading():
                try:
                    images.append(decode(read()))
                except (UnreadableImage, OSError) as error:
                    reason = why_skipped(error)
            part.names.append(name)
            part.reasons.append(reason)
            if sum(image.size for image in images) >= 3 * BATCH_PIXELS:
                part.prepared.append(self.model.prepare(images))
                images = []
        if images:
            part.prepared.append(self.model.prepare(images))
        return part


def _summarise(
    labelling: Labelling, shards: Sequence[Shard], failed: list[dict[str, str]], console: Console
) -> dict[str, Any] | None:
    """Add up the footers of all shards but the failed ones; None while others have no labels."""
    out, classes = labelling.out, labelling.classes
    all_files = {out.labels_of(shard): shard.name for shard in shards}
    without = {one["shard"] for one in failed}
    files = [file for file, name in all_files.items() if name not in without]
    there = out.labelled()
    waiting = len(set(files) - there)
    if not waiting:  # else each of a thousand shares would read all footers
        with ThreadPoolExecutor(_ASKED) as threads:
            footers = list(threads.map(about, files))
        waiting = footers.count(None)  # they are damaged
    if waiting:
        console.say(
            f"{counted(waiting, 'shard')} {are(waiting)} left to other shares; the last one "
            f"writes {SUMMARY}"
        )
        return None
    made = {"model": labelling.model, "threshold": labelling.threshold}
    totals = dict.fromkeys(COUNTS, 0)
    by_class = np.zeros((len(classes), 2), dtype=np.int64)
    for known in filter(None, footers):
        if {key: known[key] for key in made} != made:
            raise TutelageError(
                f"{out.place} holds labels of {known['shard']} that were made with another model "
                f"or threshold, by a command that began at the same time; delete {out.place} to "
                "label anew"
            )
        by_class += np.array(known["classes"], dtype=np.int64).reshape(by_class.shape)
        for key in COUNTS:
            totals[key] += known[key]
    if others := len(there - all_files.keys()):
        console.say(
            f"{out.place / LABELS} also holds the labels of {counted(others, 'shard')} outside "
            f"this pool; {SUMMARY} leaves them out"
        )
    content: dict[str, Any] = {
        **made,
        "version": __version__,
        "shards": len(shards),
        **totals,
        "classes": {
            name: {"labelled": labelled, "accepted": accepted}
            for name, (labelled, accepted) in zip(classes, by_class.tolist(), strict=True)
        },
        "failed": failed,
    }
    (out.place / SUMMARY).write(as_text(content))
    return content

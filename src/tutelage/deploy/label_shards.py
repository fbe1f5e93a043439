"""Pseudo-labels for a pool of shards, by any number of processes that share a folder.

Each process starts with its own share of the shards (``shards[rank::world]``). Then it helps the
others, beginning at the end of their shares, so that neither a slow machine nor a large shard holds
up the rest. A process claims a shard before it reads it (``tutelage.system.locks``): no two label
the same shard at the same time, and the claims of a process that dies are free at once. The labels
of a shard appear under their final name only when they are complete, and their footer says what
they were made from; a process that finds them skips the shard. So the processes need not talk to
each other, and none waits for one that died: a process with nothing left to do looks every second
whether a shard became free, and ends when all are labelled. On a file system without locks each
process keeps to its share. Where locks exist but machines do not share them, two of them may label
the same shard at the end: the same rows are then written twice, one after the other.

Memory holds some dozens of images, however large a shard or the pool is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tutelage._version import __version__
from tutelage.data.decode import UnreadableImage, decode, why_skipped
from tutelage.data.shards import Read, Shard
from tutelage.deploy.label_table import COUNTS, LabelTable, Part, about
from tutelage.deploy.runtime import BATCH_PIXELS, OnnxModel
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import replacing, sweep, write_atomically
from tutelage.system.locks import Claims

SUMMARY, OPTIONS, LABELS, FAILED = "label.json", "options.json", "labels", "failed"
FORMAT = 1  # of the folder: raise it when old outputs would be read wrongly
_AHEAD = 4  # batches per thread that are read and answered before they are written
_POLL_S = 1.0


class Engine(Protocol):
    """A model in two halves: one for many threads, one for the thread that writes.

    Attributes:
        classes: in the order of the probabilities.
        unknown_threshold: an energy above it means none of the classes; None without a threshold.
        batch: images given to ``prepare`` at once.
    """

    classes: tuple[str, ...]
    unknown_threshold: float | None
    batch: int

    def prepare(self, pixels: Sequence[np.ndarray]) -> Any:
        """Do with uint8 images (H, W, 3) what several threads can do at the same time."""

    def finish(self, prepared: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Do the rest; returns probabilities (N, K), and energies (N,) if there is a threshold."""


class OnnxEngine:
    """An exported model: every thread decodes its own batch and runs it on one core.

    So all cores are busy with whichever of the two there is to do, and there is no number of
    decoding threads to tune. Batches of 8 are up to 1.4 times as fast as single images with views
    of 64 px, and no slower with views of 144 px.
    """

    batch = 8

    def __init__(self, opened: OnnxModel) -> None:
        """Take a model that was opened with ``threads=1``."""
        self._opened = opened
        self.classes = opened.classes
        self.unknown_threshold = opened.unknown_threshold

    def prepare(self, pixels: Sequence[np.ndarray]) -> Any:
        """Do all of the work: onnxruntime lets other threads go on while it computes."""
        if self.unknown_threshold is None:
            return self._opened.probabilities(pixels, self.batch), None
        return self._opened.answers(pixels, self.batch)

    def finish(self, prepared: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what ``prepare`` has computed."""
        probabilities, energy = prepared
        return probabilities, energy


@dataclass(frozen=True, eq=False)
class _Recipe:
    """What all labels of a folder are made with.

    Attributes:
        engine: the model.
        model: its fingerprint.
        threshold: the confidence that a pseudo-label needs to be accepted.
        out: the folder.
    """

    engine: Engine
    model: str
    threshold: float
    out: Path

    def labels(self, shard: Shard) -> Path:
        """The file of a shard's labels."""
        return self.out / LABELS / f"{output_name(shard.name)}.parquet"

    def failure(self, shard: Shard) -> Path:
        """The file that says why a shard has no labels."""
        return self.out / FAILED / f"{output_name(shard.name)}.json"


def label_shards(
    engine: Engine,
    fingerprint: str,
    shards: Sequence[Shard],
    out: Path,
    *,
    threshold: float,
    workers: int,
    rank: int = 0,
    world: int = 1,
    console: Console,
) -> dict[str, Any] | None:
    """Label the shards that have no labels yet, each into a file of its own.

    Args:
        engine: the model.
        fingerprint: a text that changes with the model.
        shards: the pool; every process must be given the same.
        out: the folder, made if needed; all processes share it.
        threshold: the confidence that a pseudo-label needs to be accepted, in [0, 1].
        workers: threads that decode, and that run an exported model.
        rank: the number of this process; its share of the shards depends on it.
        world: how many processes were started together.
        console: shows the progress.

    Returns:
        The content of ``label.json``; None when another process writes it.

    Raises:
        TutelageError: the folder holds labels of another model or threshold.
        OSError: the folder cannot be written; the labels of finished shards stay.
        MissingExtra: pyarrow is not installed.
    """
    need("pyarrow.parquet", "train")
    for name in (LABELS, FAILED):
        (out / name).mkdir(parents=True, exist_ok=True)
    recipe = _Recipe(engine, fingerprint, threshold, out)
    with closing(Claims(out / ".claims")) as claims:
        _pin(recipe)
        deal = _Deal(shards, claims, recipe, rank, world, console)
        with console.bar("label", len(shards), "shard") as done:
            _Work(recipe, workers, deal).run(lambda: done(len(shards) - len(deal.left)))
        if not claims.take(SUMMARY):
            return None
        return _summarise(recipe, shards, console)


def output_name(shard: str) -> str:
    """The name, without suffix, of a shard's files: readable, and different for each shard."""
    digest = hashlib.blake2b(shard.encode(errors="surrogateescape"), digest_size=5).hexdigest()
    base = re.sub(r"\.(tar|parquet)$", "", shard.rstrip("/").rpartition("/")[2], flags=re.I)
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', base).strip('.-')[:80]}-{digest}"


class _Deal:
    """Which shard this process labels next."""

    def __init__(
        self,
        shards: Sequence[Shard],
        claims: Claims,
        recipe: _Recipe,
        rank: int,
        world: int,
        console: Console,
    ) -> None:
        self.claims = claims
        self.console = console
        self._recipe = recipe
        shares = [shards[(rank + step) % world :: world] for step in range(world)]
        helped = shares[1:] if claims.work else []
        self.left: list[Shard] = [*shares[0], *(s for share in helped for s in reversed(share))]
        self._before = self._failures()
        if not claims.work:
            console.say(
                f"{recipe.out} has no file locks: each process keeps to its share of the shards"
            )

    def next(self) -> tuple[Shard, str] | None:
        """Claim a shard that is not labelled; None when none is free now.

        Returns:
            The shard, and its fingerprint from before the first byte is read: a shard that changes
            meanwhile will not match it the next time.
        """
        failed = self._failures()
        kept: list[Shard] = []
        found = None
        left = iter(self.left)
        for shard in left:
            name = output_name(shard.name)
            # A shard that failed before this process began is tried once more.
            if failed.get(name) != self._before.get(name) and name in failed:
                continue
            if not self.claims.take(shard.name):
                kept.append(shard)
                continue
            state = _fingerprint(shard)
            if self._labelled(shard, state):
                self.claims.release(shard.name)
                continue
            found = shard, state
            break
        self.left = [*kept, *left]
        return found

    def _failures(self) -> dict[str, int]:
        found = {}
        for path in (self._recipe.out / FAILED).glob("*.json"):
            with suppress(FileNotFoundError):  # another process has just labelled it
                found[path.stem] = path.stat().st_mtime_ns
        return found

    def _labelled(self, shard: Shard, state: str) -> bool:
        path = self._recipe.labels(shard)
        known = about(path)
        if known is not None and known["fingerprint"] == state:
            return True
        if known is not None:
            self.console.say(f"{shard.name} has changed since it was labelled: it is labelled anew")
        elif path.exists():
            self.console.say(f"{path} is damaged: {shard.name} is labelled anew")
        return False


@dataclass(eq=False)
class _Job:
    """A shard that is claimed and open."""

    shard: Shard
    fingerprint: str
    entries: Iterator[tuple[str, Read]]
    open: ExitStack = field(default_factory=ExitStack)


class _Unreadable(Exception):
    """A shard cannot be read to its end."""


class _Work:
    """What this process does: shards are opened ahead, read, answered and written in order."""

    def __init__(self, recipe: _Recipe, workers: int, deal: _Deal) -> None:
        self.recipe = recipe
        self.engine = recipe.engine
        self.workers = workers
        self.deal = deal
        self._stop = threading.Event()

    def run(self, progress: Callable[[], None]) -> None:
        with closing(self._parts()) as parts:
            for job, first in parts:
                try:
                    self._write(job, first, map(itemgetter(1), parts))
                finally:
                    job.open.close()
                    self.deal.claims.release(job.shard.name)
                progress()

    def _parts(self) -> Generator[tuple[_Job, Part | Exception | None], None, None]:
        """The parts of each job, one job after the other.

        Behind the parts of a job comes None, or the error if it cannot be read to its end.
        """
        window: deque[tuple[_Job, Future[Part] | Exception | None]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="label")
        opener = ThreadPoolExecutor(1, thread_name_prefix="open")
        try:
            upcoming = opener.submit(self._open)
            while True:
                while window and not upcoming.done():  # it may have to be copied from far away
                    yield _answered(*window.popleft())
                job = upcoming.result()
                if job is None:
                    while window:
                        yield _answered(*window.popleft())
                    if not self.deal.left:
                        return
                    time.sleep(_POLL_S)  # other processes have claimed the rest; one may die
                upcoming = opener.submit(self._open)  # while this one is read
                if job is None:
                    continue
                try:
                    while chunk := list(itertools.islice(job.entries, self.engine.batch)):
                        window.append((job, pool.submit(self._look, chunk)))
                        while len(window) > self.workers * _AHEAD:
                            yield _answered(*window.popleft())
                    window.append((job, None))
                except (TutelageError, OSError) as error:
                    window.append((job, error))
        finally:
            self._stop.set()
            for threads in (pool, opener):
                threads.shutdown(cancel_futures=True)

    def _open(self) -> _Job | None:
        """Claim and open the next shard; reading its entries raises what went wrong."""
        found = self.deal.next()
        if found is None:
            return None
        job = _Job(*found, iter(()))
        try:
            job.entries = job.open.enter_context(job.shard.opened(self._stop))
        except (TutelageError, OSError) as error:
            job.entries = _raising(error)
        return job

    def _look(self, chunk: Sequence[tuple[str, Read]]) -> Part:
        """Read, decode and prepare some images, fewer at a time when they are large."""
        part = Part([], [], [])
        images: list[np.ndarray] = []
        for name, read in chunk:
            image, reason = _decoded(read)
            part.names.append(name)
            part.reasons.append(reason)
            if image is not None:
                images.append(image)
            if sum(image.size for image in images) >= 3 * BATCH_PIXELS:
                part.prepared.append(self.engine.prepare(images))
                images = []
        if images:
            part.prepared.append(self.engine.prepare(images))
        return part

    def _write(
        self, job: _Job, part: Part | Exception | None, rest: Iterator[Part | Exception | None]
    ) -> None:
        """Write the labels of a shard, or why it has none; ``rest`` gives its further parts."""
        failure = self.recipe.failure(job.shard)
        facts = {
            "format": FORMAT,
            "shard": job.shard.name,
            "fingerprint": job.fingerprint,
            "model": self.recipe.model,
            "threshold": self.recipe.threshold,
            "version": __version__,
        }
        path = self.recipe.labels(job.shard)
        sweep(path.parent, path.name)
        try:
            with (
                replacing(path) as partial,
                closing(LabelTable(partial, self.engine, facts)) as table,
            ):
                while part is not None:
                    if isinstance(part, Exception):
                        raise _Unreadable(str(part)) from part
                    table.add(part)
                    part = next(rest)
                table.finish()
        except _Unreadable as error:
            self.deal.console.say(f"{job.shard.name} is left out: {error}")
            record = {"shard": job.shard.name, "reason": str(error)}
            write_atomically(failure, json.dumps(record, indent=2) + "\n")
        else:
            failure.unlink(missing_ok=True)


def _answered(
    job: _Job, part: Future[Part] | Exception | None
) -> tuple[_Job, Part | Exception | None]:
    return job, part.result() if isinstance(part, Future) else part


def _raising(error: Exception) -> Iterator[tuple[str, Read]]:
    raise error
    yield  # makes it a generator, which raises when it is read


def _decoded(read: Read) -> tuple[np.ndarray | None, str | None]:
    """An image's pixels, or why it has none."""
    try:
        return decode(read()), None
    except (UnreadableImage, OSError) as error:
        return None, why_skipped(error)


def _fingerprint(shard: Shard) -> str:
    try:
        return shard.fingerprint()
    except OSError as error:  # opening it will say so
        return f"!{error}"


def _pin(recipe: _Recipe) -> None:
    """Write what the folder's labels are made with, or refuse a folder of other labels.

    What was written is read again: of two commands that begin at once, one stops here.
    """
    out, path = recipe.out, recipe.out / OPTIONS
    ours = {"format": FORMAT, "model": recipe.model, "threshold": recipe.threshold,
            "classes": list(recipe.engine.classes)}  # fmt: skip
    if not path.exists():
        write_atomically(path, json.dumps(ours, indent=2, ensure_ascii=False) + "\n")
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TutelageError(f"{path} is damaged ({error}); delete it or {out}") from error
    changed = [key for key in ours if not isinstance(theirs, dict) or theirs.get(key) != ours[key]]
    if changed:
        raise TutelageError(
            f"{out} holds labels that were made with another {' and '.join(changed)}; choose "
            f"another --out, or delete {out} to label anew"
        )


def _summarise(recipe: _Recipe, shards: Sequence[Shard], console: Console) -> dict[str, Any] | None:
    """Add up the footers of all shards; None while other processes still label some."""
    totals = dict.fromkeys(COUNTS, 0)
    by_class = np.zeros((len(recipe.engine.classes), 2), dtype=np.int64)
    failed: list[dict[str, str]] = []
    waiting = 0
    for shard in shards:
        known = about(recipe.labels(shard))
        if recipe.failure(shard).exists():
            failed.append(json.loads(recipe.failure(shard).read_text(encoding="utf-8")))
        elif known is None:
            waiting += 1
        else:
            by_class += np.array(known["classes"], dtype=np.int64).reshape(by_class.shape)
            for key in COUNTS:
                totals[key] += known[key]
    if waiting:
        console.say(f"{waiting} shards are left to other processes, which write {SUMMARY}")
        return None
    _mention_others(recipe, shards, console)
    content: dict[str, Any] = {
        "model": recipe.model,
        "threshold": recipe.threshold,
        "version": __version__,
        "shards": len(shards),
        **totals,
        "classes": {
            name: {"labelled": labelled, "accepted": accepted}
            for name, (labelled, accepted) in zip(
                recipe.engine.classes, by_class.tolist(), strict=True
            )
        },
        "failed": failed,
    }
    sweep(recipe.out, SUMMARY)
    write_atomically(recipe.out / SUMMARY, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return content


def _mention_others(recipe: _Recipe, shards: Sequence[Shard], console: Console) -> None:
    """Say that the folder also holds labels of shards that are not in this pool."""
    folder, expected = recipe.out / LABELS, {recipe.labels(shard).name for shard in shards}
    if others := sum(path.name not in expected for path in folder.glob("*.parquet")):
        console.say(
            f"{folder} also holds the labels of {others} shards that are not in this pool; "
            f"{SUMMARY} leaves them out"
        )

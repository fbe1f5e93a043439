"""Pseudo-labels for a pool of shards, by any number of processes that share a folder.

Each process starts with its own share of the shards (``shards[rank::world]``). Then it helps the
others, beginning at the end of their shares, so that neither a slow machine nor a large shard holds
up the rest. A process claims a shard before it reads it (``tutelage.system.locks``); the claims of
a process that dies are free at once. The labels of a shard appear under their final name only when
they are complete, and their footer says what they were made from; a process that finds them skips
the shard. So the processes need not talk to each other: one with nothing left to do looks every
second whether a shard became free, and ends when all are labelled. On a file system without locks
each process keeps to its share. Where locks exist but machines do not share them, two of them may
label the same shard at the end: the same rows are then written twice, one after the other.

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
from typing import Any

import numpy as np

from tutelage._version import __version__
from tutelage.data.decode import UnreadableImage, decode, why_skipped
from tutelage.data.shards import Read, Shard
from tutelage.deploy.label_table import COUNTS, Engine, LabelTable, Part, about
from tutelage.deploy.runtime import BATCH_PIXELS
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import replacing, sweep, write_atomically
from tutelage.system.locks import Claims

SUMMARY, OPTIONS, LABELS, FAILED = "label.json", "options.json", "labels", "failed"
FORMAT = 1  # of the folder: raise it when old outputs would be read wrongly
_AHEAD = 4  # batches per thread that are read and answered before they are written
_POLL_S = 1.0


@dataclass(frozen=True, eq=False)
class Pool:
    """The shards, and what all labels of a folder are made with."""

    shards: Sequence[Shard]  # every process must have the same
    out: Path  # the folder
    engine: Engine
    model: str  # a text that changes with the model
    threshold: float  # the confidence that a pseudo-label needs to be accepted, in [0, 1]
    console: Console

    def failure(self, shard: Shard) -> Path:
        """The file that says why a shard has no labels."""
        return self.out / FAILED / f"{output_name(shard)}.json"


def label_shards(
    pool: Pool, *, workers: int, rank: int = 0, world: int = 1
) -> dict[str, Any] | None:
    """Label the shards that have no labels yet, each into a file of its own.

    This is process ``rank`` of ``world``, which share the pool's folder. It decodes, and runs an
    exported model, in ``workers`` threads.

    Returns:
        The content of ``label.json``; None when another process writes it.

    Raises:
        TutelageError: the folder holds labels of another model or threshold.
        OSError: the folder cannot be written; the labels of finished shards stay.
        MissingExtra: pyarrow is not installed.
    """
    need("pyarrow.parquet", "train")
    for name in (LABELS, FAILED):
        (pool.out / name).mkdir(parents=True, exist_ok=True)
    with closing(Claims(pool.out / ".claims")) as claims:
        _pin(pool)
        deal = _Deal(pool, claims, rank, world)
        with pool.console.bar("label", len(pool.shards), "shard") as done:
            _Work(pool, deal, workers).run(lambda: done(len(pool.shards) - len(deal.left)))
        return _summarise(pool) if claims.take(SUMMARY) else None


def labels_of(shard: Shard, out: Path) -> Path:
    """The file of a shard's labels."""
    return out / LABELS / f"{output_name(shard)}.parquet"


def output_name(shard: Shard) -> str:
    """The name, without suffix, of a shard's files: readable, and different for each shard."""
    name = shard.name
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=5).hexdigest()
    base = re.sub(r"\.(tar|parquet)$", "", name.rstrip("/").rpartition("/")[2], flags=re.I)
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', base).strip('.-')[:80]}-{digest}"


class _Deal:
    """Which shard this process labels next."""

    def __init__(self, pool: Pool, claims: Claims, rank: int, world: int) -> None:
        self.claims = claims
        self._pool = pool
        shares = [pool.shards[(rank + step) % world :: world] for step in range(world)]
        helped = shares[1:] if claims.work else []
        self.left: list[Shard] = [*shares[0], *(s for share in helped for s in reversed(share))]
        self._before = self._failures()
        if not claims.work:
            pool.console.say(
                f"{pool.out} has no file locks: each process keeps to its share of the shards"
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
            name = output_name(shard)
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
        for path in (self._pool.out / FAILED).glob("*.json"):
            with suppress(FileNotFoundError):  # another process has just labelled it
                found[path.stem] = path.stat().st_mtime_ns
        return found

    def _labelled(self, shard: Shard, state: str) -> bool:
        path, say = labels_of(shard, self._pool.out), self._pool.console.say
        known = about(path)
        if known is not None and known["fingerprint"] == state:
            return True
        if known is not None:
            say(f"{shard.name} has changed since it was labelled: it is labelled anew")
        elif path.exists():
            say(f"{path} is damaged: {shard.name} is labelled anew")
        return False


@dataclass(eq=False)
class _Job:
    """A shard that is claimed and open."""

    shard: Shard
    fingerprint: str
    entries: Iterator[tuple[str, Read]] | Exception = field(init=False)  # or why it is not open
    open: ExitStack = field(default_factory=ExitStack)


class _Unreadable(Exception):
    """A shard cannot be read to its end."""


class _Work:
    """What this process does: shards are opened ahead, read, answered and written in order."""

    def __init__(self, pool: Pool, deal: _Deal, workers: int) -> None:
        self.pool = pool
        self.engine = pool.engine
        self.deal = deal
        self.workers = workers
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

        After the parts of a job comes None, or the error if the job cannot be read to its end.
        """
        window: deque[tuple[_Job, Future[Part] | Exception | None]] = deque()
        readers = ThreadPoolExecutor(self.workers, thread_name_prefix="label")
        opener = ThreadPoolExecutor(1, thread_name_prefix="open")

        def first() -> tuple[_Job, Part | Exception | None]:
            job, part = window.popleft()
            return job, part.result() if isinstance(part, Future) else part

        try:
            upcoming = opener.submit(self._open)
            while True:
                while window and not upcoming.done():  # it may have to be copied from far away
                    yield first()
                job = upcoming.result()
                if job is None:
                    while window:
                        yield first()
                    if not self.deal.left:
                        return
                    time.sleep(_POLL_S)  # other processes have claimed the rest; one may die
                upcoming = opener.submit(self._open)  # while this one is read
                if job is None:
                    continue
                try:
                    if isinstance(job.entries, Exception):
                        raise job.entries
                    while chunk := list(itertools.islice(job.entries, self.engine.batch)):
                        window.append((job, readers.submit(self._look, chunk)))
                        while len(window) > self.workers * _AHEAD:
                            yield first()
                    window.append((job, None))
                except (TutelageError, OSError) as error:
                    window.append((job, error))
        finally:
            self._stop.set()
            for threads in (readers, opener):
                threads.shutdown(cancel_futures=True)

    def _open(self) -> _Job | None:
        """Claim and open the next shard."""
        found = self.deal.next()
        if found is None:
            return None
        job = _Job(*found)
        try:
            job.entries = job.open.enter_context(job.shard.opened(self._stop))
        except (TutelageError, OSError) as error:
            job.entries = error
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
        failure = self.pool.failure(job.shard)
        facts = {
            "format": FORMAT,
            "shard": job.shard.name,
            "fingerprint": job.fingerprint,
            "model": self.pool.model,
            "threshold": self.pool.threshold,
            "version": __version__,
        }
        path = labels_of(job.shard, self.pool.out)
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
            self.pool.console.say(f"{job.shard.name} is left out: {error}")
            record = {"shard": job.shard.name, "reason": str(error)}
            write_atomically(failure, json.dumps(record, indent=2) + "\n")
        else:
            failure.unlink(missing_ok=True)


def _decoded(read: Read) -> tuple[np.ndarray | None, str | None]:
    try:
        return decode(read()), None
    except (UnreadableImage, OSError) as error:
        return None, why_skipped(error)


def _fingerprint(shard: Shard) -> str:
    try:
        return shard.fingerprint()
    except OSError as error:  # opening it will say so
        return f"!{error}"


def _pin(pool: Pool) -> None:
    """Write what the folder's labels are made with, or refuse a folder of other labels.

    What was written is read again: of two commands that begin at once, one stops here.
    """
    out, path = pool.out, pool.out / OPTIONS
    ours = {"format": FORMAT, "model": pool.model, "threshold": pool.threshold,
            "classes": list(pool.engine.classes)}  # fmt: skip
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


def _summarise(pool: Pool) -> dict[str, Any] | None:
    """Add up the footers of all shards; None while other processes still label some."""
    totals = dict.fromkeys(COUNTS, 0)
    by_class = np.zeros((len(pool.engine.classes), 2), dtype=np.int64)
    failed: list[dict[str, str]] = []
    waiting = 0
    for shard in pool.shards:
        known, failure = about(labels_of(shard, pool.out)), pool.failure(shard)
        if failure.exists():
            failed.append(json.loads(failure.read_text(encoding="utf-8")))
        elif known is None:
            waiting += 1
        else:
            by_class += np.array(known["classes"], dtype=np.int64).reshape(by_class.shape)
            for key in COUNTS:
                totals[key] += known[key]
    if waiting:
        pool.console.say(f"{waiting} shards are left to other processes, which write {SUMMARY}")
        return None
    _mention_others(pool)
    content: dict[str, Any] = {
        "model": pool.model,
        "threshold": pool.threshold,
        "version": __version__,
        "shards": len(pool.shards),
        **totals,
        "classes": {
            name: {"labelled": labelled, "accepted": accepted}
            for name, (labelled, accepted) in zip(
                pool.engine.classes, by_class.tolist(), strict=True
            )
        },
        "failed": failed,
    }
    sweep(pool.out, SUMMARY)
    write_atomically(pool.out / SUMMARY, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return content


def _mention_others(pool: Pool) -> None:
    folder = pool.out / LABELS
    expected = {labels_of(shard, pool.out) for shard in pool.shards}
    if others := sum(path not in expected for path in folder.glob("*.parquet")):
        pool.console.say(
            f"{folder} also holds the labels of {others} shards that are not in this pool; "
            f"{SUMMARY} leaves them out"
        )

"""Pseudo-labels for a pool of shards, by any number of processes that share a folder.

Each process starts with its share of the shards (``shards[rank::world]``) and then helps the others
from the end of theirs, so that neither a slow machine nor a large shard holds the rest up. Before
it reads a shard it claims it (``tutelage.system.locks``): no shard is labelled by two at a time,
and one whose process died is free at that moment. A shard's labels appear under their name when
they are whole, with what they were made from in the footer; who finds them there skips the shard.
So ranks need not talk, and none waits for one that died: who has nothing left looks every second
whether a shard became free, and ends when all are labelled. On a file system without locks each
process keeps to its share. Where locks are silently not shared between machines, a shard may be
labelled by two of them at the end: the same rows are written twice, one after the other.

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
from tutelage.deploy.runtime import BATCH_PIXELS, OnnxModel
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import replacing, sweep, write_atomically
from tutelage.system.locks import Claims

SUMMARY, OPTIONS, LABELS, FAILED = "label.json", "options.json", "labels", "failed"
COUNTS = ("images", "labelled", "accepted", "unknown", "skipped")
FORMAT = 1  # of the folder: raise it when old outputs would be read wrongly
UNKNOWN = "looks like none of the classes"
_ABOUT = b"tutelage.stats.pseudo_labels"  # key in the footer
_ROWS = 8192  # of a row group
_AHEAD = 4  # batches a thread that are read, or answered, before they are written
_POLL_S = 1.0


class Engine(Protocol):
    """A model in two halves: one for many threads, one for the thread that writes.

    Attributes:
        classes: in the order of the probabilities.
        unknown_threshold: an energy above it means none of the classes; None where unknown.
        batch: images at once.
    """

    classes: tuple[str, ...]
    unknown_threshold: float | None
    batch: int

    def prepare(self, pixels: Sequence[np.ndarray]) -> Any:
        """Do what threads can do at the same time with uint8 images (H, W, 3)."""

    def finish(self, prepared: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Do the rest: probabilities (N, K), and energies (N,) where there is a threshold."""


class OnnxEngine:
    """An exported model: every thread decodes and runs its own batch on one core.

    So all cores are busy with whichever of the two there is to do, without a division to be tuned.
    A batch of 8 is up to 1.4 times as fast as single images (views of 64 px), and no slower at 144.
    """

    batch = 8

    def __init__(self, opened: OnnxModel) -> None:
        """Take a model that was opened with ``threads=1``."""
        self._opened = opened
        self.classes = opened.classes
        self.unknown_threshold = opened.unknown_threshold

    def prepare(self, pixels: Sequence[np.ndarray]) -> Any:
        """All of the work: onnxruntime lets other threads go on while it computes."""
        if self.unknown_threshold is None:
            return self._opened.probabilities(pixels, self.batch), None
        return self._opened.answers(pixels, self.batch)

    def finish(self, prepared: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Nothing is left to do."""
        probabilities, energy = prepared
        return probabilities, energy


def label_pool(
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
    """Label what is not labelled yet, each shard into a file of its own.

    Args:
        engine: the model.
        fingerprint: a text that changes with the model.
        shards: the pool; every process must be given the same.
        out: the folder, made if needed; all processes share it.
        threshold: the confidence that a pseudo-label needs to be accepted, in [0, 1].
        workers: threads that decode, and run an exported model.
        rank: of this process, which share it starts with.
        world: how many processes were started together.
        console: is told of the progress.

    Returns:
        The content of ``label.json``; None when another process writes it.

    Raises:
        TutelageError: the folder holds labels of another model or threshold.
        OSError: it cannot be written; the shards that are finished stay.
        MissingExtra: pyarrow is not installed.
    """
    need("pyarrow.parquet", "train")
    for name in (LABELS, FAILED):
        (out / name).mkdir(parents=True, exist_ok=True)
    claims = Claims(out / ".claims")
    with closing(claims):
        _pin(out, engine, fingerprint, threshold)
        deal = _Deal(shards, claims, out, rank, world, console)
        work = _Work(engine, threshold, fingerprint, out, workers, deal)
        with console.bar("label", len(shards), "shard") as done:
            work.run(lambda: done(len(shards) - len(deal.left)))
        if not claims.take(SUMMARY):
            return None
        return _summarise(engine, fingerprint, threshold, shards, out, console)


def about(path: Path) -> dict[str, Any] | None:
    """What a file of labels says of itself; None where there is no whole one.

    Its keys are ``format``, ``shard``, ``fingerprint``, ``model``, ``threshold``, ``version``, the
    counts ``images``, ``labelled``, ``accepted``, ``unknown`` and ``skipped``, and ``classes``, a
    pair (labelled, accepted) for each.
    """
    arrow = need("pyarrow", "train")
    try:
        metadata = need("pyarrow.parquet", "train").read_metadata(path).metadata or {}
        found: dict[str, Any] = json.loads(metadata[_ABOUT])
    except (OSError, KeyError, ValueError, arrow.ArrowException):
        return None
    return found


def output_name(shard: str) -> str:
    """The name, without suffix, of a shard's files: readable, and no two shards share one."""
    digest = hashlib.blake2b(shard.encode(errors="surrogateescape"), digest_size=5).hexdigest()
    base = re.sub(r"\.(tar|parquet)$", "", shard.rstrip("/").rpartition("/")[2], flags=re.I)
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', base).strip('.-')[:80]}-{digest}"


class _Deal:
    """Which shard this process labels next."""

    def __init__(
        self,
        shards: Sequence[Shard],
        claims: Claims,
        out: Path,
        rank: int,
        world: int,
        console: Console,
    ) -> None:
        self.claims = claims
        self.out = out
        self.console = console
        shares = [shards[(rank + step) % world :: world] for step in range(world)]
        helped = shares[1:] if claims.work else []
        self.left: list[Shard] = [*shares[0], *(s for share in helped for s in reversed(share))]
        self._before = self._failures()
        if not claims.work:
            console.say(f"{out} has no file locks: each process keeps to its share of the shards")

    def next(self) -> tuple[Shard, str] | None:
        """Claim a shard that is not labelled; None when there is none to be had now.

        Returns:
            The shard and its fingerprint, taken before a byte is read: a shard that changes
            meanwhile will not match the next time.
        """
        failed = self._failures()
        kept: list[Shard] = []
        found = None
        left = iter(self.left)
        for shard in left:
            name = output_name(shard.name)
            # One that failed before this process began is tried again, once.
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
        for path in (self.out / FAILED).glob("*.json"):
            with suppress(FileNotFoundError):  # another process has just labelled it
                found[path.stem] = path.stat().st_mtime_ns
        return found

    def _labelled(self, shard: Shard, state: str) -> bool:
        path = self.out / LABELS / f"{output_name(shard.name)}.parquet"
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


@dataclass
class _Part:
    """Some images of a shard, in order: what is known of each so far."""

    names: list[str]
    reasons: list[str | None]  # why an image has no label
    prepared: list[Any]  # by the engine, of those without a reason


class _Unreadable(Exception):
    """A shard cannot be read, or not to its end."""


class _Work:
    """This process's part: shards are opened ahead, read, answered and written in order."""

    def __init__(
        self,
        engine: Engine,
        threshold: float,
        fingerprint: str,
        out: Path,
        workers: int,
        deal: _Deal,
    ) -> None:
        self.engine = engine
        self.threshold = threshold
        self.fingerprint = fingerprint
        self.out = out
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

    def _parts(self) -> Generator[tuple[_Job, _Part | Exception | None], None, None]:
        """Every job's parts, then None or why it cannot be read, one job after the other."""
        window: deque[tuple[_Job, Future[_Part] | Exception | None]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="label")
        opener = ThreadPoolExecutor(1, thread_name_prefix="open")
        try:
            upcoming = opener.submit(self._open)
            while True:
                while window and not upcoming.done():  # which may have to be copied from far away
                    yield _answered(*window.popleft())
                job = upcoming.result()
                if job is None:
                    while window:
                        yield _answered(*window.popleft())
                    if not self.deal.left:
                        return
                    time.sleep(_POLL_S)  # other processes have them; one may die
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
        """Claim and open the next shard; what goes wrong is told by its entries."""
        found = self.deal.next()
        if found is None:
            return None
        job = _Job(*found, iter(()))
        try:
            job.entries = job.open.enter_context(job.shard.opened(self._stop))
        except (TutelageError, OSError) as error:
            job.entries = _raising(error)
        return job

    def _look(self, chunk: Sequence[tuple[str, Read]]) -> _Part:
        """Read, decode and prepare some images, fewer at a time when they are large."""
        part = _Part([], [], [])
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
        self, job: _Job, part: _Part | Exception | None, rest: Iterator[_Part | Exception | None]
    ) -> None:
        """A shard's labels, or why it has none, under its name; takes its parts from ``rest``."""
        name = output_name(job.shard.name)
        failure = self.out / FAILED / f"{name}.json"
        facts = {
            "format": FORMAT,
            "shard": job.shard.name,
            "fingerprint": job.fingerprint,
            "model": self.fingerprint,
            "threshold": self.threshold,
            "version": __version__,
        }
        path = self.out / LABELS / f"{name}.parquet"
        sweep(path.parent, path.name)
        try:
            with replacing(path) as partial, closing(_Table(partial, self.engine, facts)) as to:
                while part is not None:
                    if isinstance(part, Exception):
                        raise _Unreadable(str(part)) from part
                    to.add(part)
                    part = next(rest)
                to.finish()
        except _Unreadable as error:
            self.deal.console.say(f"{job.shard.name} is left out: {error}")
            record = {"shard": job.shard.name, "reason": str(error)}
            write_atomically(failure, json.dumps(record, indent=2) + "\n")
        else:
            failure.unlink(missing_ok=True)


class _Table:
    """The rows of a shard, written a row group at a time."""

    def __init__(self, path: Path, engine: Engine, facts: dict[str, Any]) -> None:
        self._arrow = arrow = need("pyarrow", "train")
        self._engine = engine
        self._facts = facts
        self._threshold: float = facts["threshold"]
        self._schema = arrow.schema(
            {
                "image": arrow.string(),
                "shard": arrow.string(),
                "label": arrow.dictionary(arrow.int32(), arrow.string()),
                "confidence": arrow.float32(),
                "energy": arrow.float32(),
                "unknown": arrow.bool_(),
                "accepted": arrow.bool_(),
                "reason": arrow.string(),
            }
        )
        parquet = need("pyarrow.parquet", "train")
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._counts = dict.fromkeys(COUNTS, 0)
        self._by_class = np.zeros((len(engine.classes), 2), dtype=np.int64)
        self._clear()

    def add(self, part: _Part) -> None:
        """Append some images."""
        self._names += part.names
        self._reasons += part.reasons
        for prepared in part.prepared:
            probabilities, energy = self._engine.finish(prepared)
            self._best.append(probabilities.argmax(axis=1))
            self._confidence.append(probabilities.max(axis=1))
            if energy is not None:
                self._energy.append(energy)
        if len(self._names) >= _ROWS:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and the footer."""
        self._flush()
        content = {**self._facts, **self._counts, "classes": self._by_class.tolist()}
        self._writer.add_key_value_metadata({_ABOUT: json.dumps(content)})

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _clear(self) -> None:
        self._names: list[str] = []
        self._reasons: list[str | None] = []  # those of images without a label
        self._best: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]  # and the others' answers
        self._confidence: list[np.ndarray] = [np.zeros(0, dtype=np.float32)]
        self._energy: list[np.ndarray] = [np.zeros(0, dtype=np.float32)]

    def _flush(self) -> None:
        if not self._names:
            return
        arrow = self._arrow
        labelled = np.array([reason is None for reason in self._reasons])
        limit = self._engine.unknown_threshold
        judged = labelled & (limit is not None)

        def spread(parts: list[np.ndarray], where: np.ndarray, kind: Any) -> np.ndarray:
            """The answers in the places of the images that have one."""
            values = np.zeros(len(where), dtype=kind)
            values[where] = np.concatenate(parts)
            return values

        best = spread(self._best, labelled, np.int32)
        confidence = spread(self._confidence, labelled, np.float32)
        energy = spread(self._energy, judged, np.float32)
        unknown = judged & (energy > (np.inf if limit is None else limit))
        accepted = labelled & (confidence >= self._threshold) & ~unknown
        below = f"confidence below {self._threshold:g}"
        reasons = [
            reason or (None if taken else UNKNOWN if strange else below)
            for reason, taken, strange in zip(self._reasons, accepted, unknown, strict=True)
        ]
        label = arrow.DictionaryArray.from_arrays(
            arrow.array(best, mask=~labelled), arrow.array(self._engine.classes, arrow.string())
        )
        columns = [
            arrow.array(self._names, arrow.string()),
            arrow.array([self._facts["shard"]] * len(labelled), arrow.string()),
            label,
            arrow.array(confidence, mask=~labelled),
            arrow.array(energy, mask=~judged),
            arrow.array(unknown, mask=~judged),
            arrow.array(accepted),
            arrow.array(reasons, arrow.string()),
        ]
        self._writer.write_table(arrow.table(columns, schema=self._schema))
        for column, chosen in enumerate((labelled, accepted)):
            self._by_class[:, column] += np.bincount(best[chosen], minlength=len(self._by_class))
        every = np.ones(len(labelled), dtype=bool)
        for key, chosen in zip(
            COUNTS, (every, labelled, accepted, unknown, ~labelled), strict=True
        ):
            self._counts[key] += int(chosen.sum())
        self._clear()


def _answered(
    job: _Job, part: Future[_Part] | Exception | None
) -> tuple[_Job, _Part | Exception | None]:
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


def _pin(out: Path, engine: Engine, fingerprint: str, threshold: float) -> None:
    """Write what a folder's labels are made with, or refuse one that was begun with something else.

    It is read again after it was written: of two commands that begin at once, the first stops.
    """
    path = out / OPTIONS
    ours = {"format": FORMAT, "model": fingerprint, "threshold": threshold,
            "classes": list(engine.classes)}  # fmt: skip
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


def _summarise(
    engine: Engine,
    fingerprint: str,
    threshold: float,
    shards: Sequence[Shard],
    out: Path,
    console: Console,
) -> dict[str, Any] | None:
    """Add up the footers; the same whoever does it."""
    totals = dict.fromkeys(COUNTS, 0)
    by_class = np.zeros((len(engine.classes), 2), dtype=np.int64)
    failed: list[dict[str, str]] = []
    waiting = 0
    for shard in shards:
        name = output_name(shard.name)
        record = out / FAILED / f"{name}.json"
        known = about(out / LABELS / f"{name}.parquet")
        if record.exists():
            failed.append(json.loads(record.read_text(encoding="utf-8")))
        elif known is None:
            waiting += 1
        else:
            by_class += np.array(known["classes"], dtype=np.int64).reshape(by_class.shape)
            for key in COUNTS:
                totals[key] += known[key]
    if waiting:
        console.say(f"{waiting} shards are left to other processes, which write {SUMMARY}")
        return None
    expected = {output_name(shard.name) for shard in shards}
    others = sum(path.stem not in expected for path in (out / LABELS).glob("*.parquet"))
    if others:
        console.say(
            f"{out / LABELS} also holds the labels of {others} shards that are not in this pool; "
            f"{SUMMARY} leaves them out"
        )
    content: dict[str, Any] = {
        "model": fingerprint,
        "threshold": threshold,
        "version": __version__,
        "shards": len(shards),
        **totals,
        "classes": {
            name: {"labelled": labelled, "accepted": accepted}
            for name, (labelled, accepted) in zip(engine.classes, by_class.tolist(), strict=True)
        },
        "failed": failed,
    }
    sweep(out, SUMMARY)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / SUMMARY, text)
    return content

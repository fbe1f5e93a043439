"""Pseudo-labels for a pool of shards: each shard is one piece of an engine's work.

The labels of a shard appear under their final name only when they are complete, and their footer
says what they were made from; where they are found, the shard is not labelled again. So a command
that was cut off continues, several may have a share of the shards each, and an engine may begin a
shard anew when the process or the machine that labelled it is lost.

Memory holds some dozens of images, however large a shard or the pool is.
"""

from __future__ import annotations

import errno
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tutelage._version import __version__
from tutelage.data.decode import UnreadableImage, decode, why_skipped
from tutelage.data.shards import Read, Shard
from tutelage.deploy.label_folder import LABELS, SUMMARY, LabelFolder
from tutelage.deploy.label_table import COUNTS, LabelTable, Part, PoolModel
from tutelage.deploy.runtime import BATCH_PIXELS
from tutelage.system.console import Console
from tutelage.system.engines import Engine, Lost, Resources
from tutelage.system.errors import TutelageError, need
from tutelage.system.words import are, counted

FORMAT = 1  # of the folder: raise it when old outputs would be read wrongly
_ASKED = 8  # footers read at once: a store far away takes its time to answer
_AHEAD = 4  # batches per thread that are read and answered before they are written

Entries: TypeAlias = Iterator[tuple[str, Read]]


@dataclass(frozen=True)
class Share:
    """Part ``number`` of ``of`` of the shards: every process that has a share takes others."""

    number: int = 1
    of: int = 1

    def taken(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        """The shards of this share, spread over the whole pool."""
        return shards[self.number - 1 :: self.of]


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


@dataclass(frozen=True)
class Outcome:
    """What there is to say about a shard that was labelled, or could not be."""

    messages: tuple[str, ...] = ()
    failure: str | None = None  # why it has no labels


def label_shards(
    labelling: Labelling,
    shards: Sequence[Shard],
    engine: Engine,
    resources: Resources,
    *,
    share: Share = Share(),
    console: Console,
) -> tuple[dict[str, Any] | None, list[dict[str, str]]]:
    """Label the shards of a share that have no labels yet, each into a file of its own.

    Args:
        labelling: how; all processes that write to its folder need the same.
        shards: those of the whole pool, the same for all processes.
        engine: where.
        resources: what one shard at a time takes of the engine.
        share: which of the shards.
        console: tells what happens.

    Returns:
        The content of ``label.json``, or None while shards of other shares are not labelled; and
        the shards of this share that could not be read, with their reasons.

    Raises:
        TutelageError: the folder holds labels of another model or threshold, or another process
            has this share.
        OSError: the folder cannot be written; the labels of finished shards stay.
        MissingExtra: pyarrow is not installed.
    """
    need("pyarrow.parquet", "train")
    out, mine = labelling.out, share.taken(shards)
    out.make()
    with out.claimed(f"share-{share.number}-of-{share.of}"):
        out.pin({"format": FORMAT, "model": labelling.model, "threshold": labelling.threshold,
                 "classes": list(labelling.classes)})  # fmt: skip
        out.sweep(mine)
        failed: list[dict[str, str]] = []
        with (
            console.bar("label", len(mine), "shard") as done,
            closing(engine.map(labelling.opened, mine, resources)) as results,
        ):
            for count, (shard, result) in enumerate(results, 1):
                outcome = Outcome(failure=result.reason) if isinstance(result, Lost) else result
                for message in outcome.messages:
                    console.say(message)
                if outcome.failure is not None:
                    console.say(f"{shard.name} is left out: {outcome.failure}")
                    failed.append(out.fail(shard, outcome.failure))
                done(count)
        out.sweep(mine)  # of processes that were killed, and whose shards others labelled
        return _summarise(labelling, shards, console), failed


class _Unreadable(Exception):
    """A shard cannot be read to its end."""


class _Labeller:
    """Labels shards with an open model.

    Of several shards at once only one is read: the threads are better busy with one than with
    two that end at the same time. The others are opened meanwhile, which may mean to copy them
    from far away, or written to their end.
    """

    def __init__(
        self,
        labelling: Labelling,
        model: PoolModel,
        readers: ThreadPoolExecutor,
        stop: threading.Event,
    ) -> None:
        self._labelling = labelling
        self._model = model
        self._readers = readers
        self._stop = stop
        self._turn = threading.Lock()  # to be read

    def label(self, shard: Shard) -> Outcome:
        """Write the labels of a shard, unless they are there."""
        out, messages = self._labelling.out, []
        try:
            # From before the first byte is read: a shard that changes meanwhile will not match it.
            fingerprint = shard.fingerprint()
        except OSError as error:
            return Outcome(failure=str(error))
        known = out.about(shard)
        if known is None and out.has_labels(shard):
            messages = [f"{out.labels_of(shard)} is damaged: {shard.name} is labelled anew"]
        elif known is not None and known["fingerprint"] != fingerprint:
            messages = [f"{shard.name} has changed since it was labelled: it is labelled anew"]
        if known is None or messages:
            try:
                self._write(shard, fingerprint)
            except _Unreadable as error:
                if self._stop.is_set():  # which ends the copying of a shard, too
                    raise
                return Outcome(tuple(messages), str(error))
        out.forget_failure(shard)
        return Outcome(tuple(messages))

    def _write(self, shard: Shard, fingerprint: str) -> None:
        facts = {
            "format": FORMAT,
            "shard": shard.name,
            "fingerprint": fingerprint,
            "model": self._labelling.model,
            "threshold": self._labelling.threshold,
            "version": __version__,
        }
        with (
            self._opened(shard) as entries,
            closing(self._parts(entries)) as parts,
            self._labelling.out.writing(shard) as partial,
            closing(LabelTable(partial, self._model, facts)) as table,
        ):
            for part in parts:
                table.add(part)
            table.finish()

    @contextmanager
    def _opened(self, shard: Shard) -> Iterator[Entries]:
        with ExitStack() as stack:
            try:
                entries = stack.enter_context(shard.opened(self._stop))
            except (TutelageError, OSError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise  # there is no room here for the copy of any shard
                raise _Unreadable(str(error)) from error
            yield entries

    def _parts(self, entries: Entries) -> Generator[Part, None, None]:
        """The parts of a shard in order; the threads are some batches ahead of them."""
        ahead: deque[Future[Part]] = deque()
        with self._turn:
            while chunk := self._chunk(entries):
                ahead.append(self._readers.submit(self._look, chunk))
                if len(ahead) > self._labelling.workers * _AHEAD:
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _chunk(self, entries: Entries) -> list[tuple[str, Read]]:
        try:
            return list(itertools.islice(entries, self._model.batch))
        except (TutelageError, OSError) as error:
            raise _Unreadable(str(error)) from error

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
                part.prepared.append(self._model.prepare(images))
                images = []
        if images:
            part.prepared.append(self._model.prepare(images))
        return part


def _decoded(read: Read) -> tuple[np.ndarray | None, str | None]:
    try:
        return decode(read()), None
    except (UnreadableImage, OSError) as error:
        return None, why_skipped(error)
    except TutelageError as error:
        raise _Unreadable(str(error)) from error


def _summarise(
    labelling: Labelling, shards: Sequence[Shard], console: Console
) -> dict[str, Any] | None:
    """Add up the footers of all shards; None while some have neither labels nor a failure."""
    out, classes = labelling.out, labelling.classes
    failures = out.failures(shards)
    labelled = [shard for shard in shards if shard.name not in failures]
    waiting = out.without_labels(labelled)
    if not waiting:  # else each of a thousand shares would read all footers
        with ThreadPoolExecutor(_ASKED) as threads:
            footers = list(threads.map(out.about, labelled))
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
    if others := out.others(shards):
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
        "failed": list(failures.values()),
    }
    out.summarise(content)
    return content

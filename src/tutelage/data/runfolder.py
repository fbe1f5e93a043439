"""The run folder: claimed by one command, written atomically, continued after a kill, finished."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from tutelage.config import RunConfig, TableConfig, option
from tutelage.data.catalog import Catalog
from tutelage.data.demo import DEMOS
from tutelage.data.duplicates import DUPLICATES
from tutelage.data.open import is_in_memory, read_catalog
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.files import digest_of, lock, sweep, write_atomically
from tutelage.system.ranks import agreed, env_int, is_lead, wait

IMAGES, FINISHED = "images", "finished"  # in config.json: their state, and the files of the end
RESULT, REPORT, CARD = "metrics.json", "report.html", "MODEL_CARD.md"
RUNS = Path("runs")
"""Where results go that no ``--out`` was given for, under the folder that one works in."""

_LOCKED: dict[Path, int] = {}  # by folder, the open file whose lock this process holds


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stages = path / "stages"  # the finished ones
        self.events = path / "events.jsonl"  # the progress, one JSON object a line

    def claim(self, request: dict[str, Any]) -> bool:
        """Start a run here, or continue that of an equal request; return whether it continues."""
        self.check(request)
        self.path.mkdir(parents=True, exist_ok=True)
        held = self.path.resolve() in _LOCKED
        self._lock()
        try:
            sweep(self.path)
            if self.check(request):
                return True
            data = request.get("data", "")
            place = {"place": os.path.realpath(data)} if os.path.exists(data) else {}
            self.write_json("config.json", {"request": request, **place})
            return False
        except BaseException:
            if not held:  # else others stay shut out for as long as this process lives
                self.unlock()
            raise

    def check(self, request: dict[str, Any]) -> bool:
        """Whether an equal request was begun here; nothing is changed."""
        config = self.path / "config.json"
        if self.path.exists() and not self.path.is_dir():
            raise TutelageError(f"{self.path} is a file; --out wants a folder, choose another name")
        if not config.exists():
            # A kill while the very first files were written leaves its partial neighbours.
            if self.path.exists() and not all(map(_is_partial, self.path.iterdir())):
                raise TutelageError(
                    f"{self.path} is not empty and holds no tutelage run; "
                    "choose another --out folder, or empty it yourself"
                )
            return False
        known = self.read_json("config.json")
        earlier = known.get("request", {})
        if not isinstance(earlier, dict):
            raise TutelageError(f"{config} is damaged; restore it, or choose another --out folder")
        data = request.get("data", "")
        if os.path.exists(data) and known.get("place") == os.path.realpath(data):
            earlier = {**earlier, "data": data}  # the same folder by another path
        if earlier != request:
            raise TutelageError(
                f"{self.path} holds another run: {_difference(earlier, request)}; choose another "
                "--out folder, or repeat that run's command to continue it"
            )
        return True

    def _lock(self) -> None:
        """Keep other processes out until ``unlock``, or until this one ends in any way."""
        place = self.path.resolve()
        if place not in _LOCKED:  # a process may claim again what it holds
            file = os.open(self.events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            refusal = (
                f"another process works in {self.path}; wait for it or stop it, or choose another "
                "--out folder"
            )
            try:
                lock(file, refusal)
            except TutelageError:
                os.close(file)
                raise
            if not _is_the_file(file, self.events):  # another process has just released the folder
                os.close(file)
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock()
                return
            _LOCKED[place] = file

    def await_others(self, seconds: float) -> None:
        """Wait for another process to leave the folder, but for no longer than so many seconds."""
        until = time.monotonic() + seconds
        while self.path.resolve() not in _LOCKED and time.monotonic() < until:
            try:
                self._lock()
            except TutelageError:
                time.sleep(0.5)
            else:
                self.unlock()
                return

    def unlock(self) -> None:
        """Let other processes in."""
        file = _LOCKED.pop(self.path.resolve(), None)
        if file is not None:
            os.close(file)

    def request(self) -> dict[str, Any]:
        """The request that made this run; TutelageError if none did or config.json is damaged."""
        found = self.read_json("config.json").get("request")
        if not isinstance(found, dict) or not all(
            isinstance(found.get(name), str) for name in ("command", "data")
        ):
            raise TutelageError(
                f"{self.path / 'config.json'} does not say which command and data made the run; "
                "restore it, or choose another --out"
            )
        return found

    def release(self) -> None:
        """Undo a claim, for a command that was refused before any stage began."""
        for name in ("config.json", "split.parquet", "skipped.csv", DUPLICATES, "events.jsonl"):
            (self.path / name).unlink(missing_ok=True)
        self.unlock()  # last, or another process could claim what is deleted then
        with contextlib.suppress(OSError):  # it was there before, with something in it
            self.path.rmdir()
            if self.path.parent == RUNS:
                RUNS.rmdir()

    @property
    def is_finished(self) -> bool:
        """Whether the run has written all, however its images have changed since then."""
        return bool(self.read_json("config.json").get(FINISHED))

    def pin(self, name: str, value: Any) -> None:
        """Add a resolved part (plan, versions) to config.json; the lead writes, all wait for it."""
        if is_lead():
            self.write_json("config.json", {**self.read_json("config.json"), name: value})
        wait()

    def pinned(self, name: str, make: Callable[[], Any]) -> Any:
        """A part of config.json; where it is missing it is made and added, for good.

        All ranks make it, since that may need them all, and the lead's is pinned.
        """
        known = agreed(self.read_json("config.json").get(name))
        if known is None:
            known = agreed(make())
            self.pin(name, known)
        return known

    def read_json(self, name: str) -> dict[str, Any]:
        """One JSON file of the folder; a TutelageError if it is missing or not JSON."""
        path = self.path / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no JSON
            raise TutelageError(f"cannot read {path}: {error}; choose another --out") from error
        if not isinstance(content, dict):
            raise TutelageError(f"{path} holds {type(content).__name__}, expected an object")
        return content

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one JSON file; a kill leaves the old one or the new one."""
        write_atomically(self.path / name, json.dumps(value, indent=2) + "\n")


def request_of(command: str, data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run is known by; ``data`` is what the user called it, ``settings`` are by group."""
    return {"command": command, "data": os.path.normpath(data), "settings": settings}


def results_folder(
    out: Path | None,
    command: str,
    data: str,
    settings: dict[str, Any],
    *,
    fits: Callable[[RunFolder], bool] = lambda _: True,
    parent: Path = RUNS,
) -> Path:
    """``out``, or without one ``runs/N``: the folder of the same request, else a new number.

    ``fits`` says of a folder with the same request whether its run can be continued.
    """
    if out is not None:
        return out
    if env_int("WORLD_SIZE", 1) > 1:
        raise TutelageError("several processes share one folder for their results; name it: --out")
    request = request_of(command, data, settings)
    found = parent.iterdir() if parent.is_dir() else ()
    numbers = sorted((int(path.name) for path in found if path.name.isdecimal()), reverse=True)
    for number in numbers:
        folder = parent / str(number)
        with contextlib.suppress(TutelageError):  # not a run, or damaged: not ours
            if RunFolder(folder).check(request) and fits(RunFolder(folder)):
                return folder
    return parent / str(max(numbers, default=0) + 1)


def look(
    command: str,
    data: str,
    out: Path | str | None,
    config: RunConfig,
    catalog: Catalog | None,
    *,
    quiet: bool,
) -> tuple[Path, dict[str, Any] | None]:
    """The folder for the results, and the content of its metrics.json if the run is finished.

    Then the user is told. The catalog has what was decided about its images; it may be None for
    those of the demo, which never change.
    """
    settings = config.to_dict()
    state = cache(partial(state_of, command, data, catalog))

    def fits(folder: RunFolder) -> bool:
        return folder.read_json("config.json").get(IMAGES) in (None, state())

    place = None if out is None else Path(out)
    path = results_folder(place, command, data, settings, fits=fits)
    folder, request = RunFolder(path), request_of(command, data, settings)
    if not folder.check(request) or env_int("WORLD_SIZE", 1) > 1:  # ranks must decide alike
        return path, None
    written = folder.read_json("config.json").get(FINISHED)
    if not written or not all((path / name).is_file() for name in written):
        return path, None
    if not fits(folder):  # the run itself says what changed
        return path, None
    report = str(path / REPORT)
    Console(quiet=quiet).say(f"already finished: report {report}", {report: "bold"})
    return path, folder.read_json(RESULT)


def read_skipped(folder: Path) -> dict[str, str]:
    """The images that a run could not read -> why; none where nothing was written."""
    try:
        with (folder / "skipped.csv").open(encoding="utf-8", newline="") as file:
            return {row["image"]: row["reason"] for row in csv.DictReader(file)}
    except FileNotFoundError:
        return {}


def has_data(folder: Path) -> bool:
    """Whether a folder holds a run on data that ``catalog_of`` can open."""
    if not (folder / "config.json").is_file():
        return False
    return not is_in_memory(RunFolder(folder).request()["data"])


def catalog_of(folder: Path) -> Catalog:
    """The data of the run in a folder, as it is now."""
    request = RunFolder(folder).request()
    if is_in_memory(request["data"]):
        raise TutelageError(
            f"{folder} was made from {request['data']}, which cannot be opened from here; give the "
            "same data in Python: tutelage.api.review(RUN, data=DATA), or save it to a folder "
            "(dataset.save_to_disk) and run on that"
        )
    if request["command"] == "demo" and request["data"] in DEMOS:
        return DEMOS[request["data"]].catalog()
    try:
        table = TableConfig(**request["settings"]["table"])
    except (AttributeError, KeyError, TypeError) as error:
        raise TutelageError(
            f"{folder / 'config.json'} does not say how the data was read; restore it, or choose "
            "another --out"
        ) from error
    return read_catalog(request["data"], table)


def command_line(command: str, data: str, out: str | None, settings: Mapping[str, Any]) -> str:
    """The shell command of a run, or, if its data is in memory, the call in Python.

    ``data`` is what the user called it, or the words of ``open.in_memory``, which a comment repeats
    then. A setting that is None is left out, and so is ``out``.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if is_in_memory(data):
        values = [f", {out!r}" if out else "", *(f", {n}={value!r}" for n, value in given.items())]
        return f"tutelage.{command.replace('-', '_')}(DATA{''.join(values)})  # DATA: {data}"
    images = ["--data", data] if command == "demo" else [data]
    words = ["tutelage", command, *images, *(["--out", out] if out else [])]
    for name, value in given.items():
        words.append(option(name))
        if value is not True:
            listed = isinstance(value, list)
            words.append((",".join(map(str, value)) or "none") if listed else str(value))
    return shlex.join(words)


def _is_the_file(opened: int, path: Path) -> bool:
    """Whether an open file is what the path names, not one that was deleted meanwhile."""
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False


def _is_partial(path: Path) -> bool:
    unused = path.name == "events.jsonl" and path.stat().st_size == 0
    return unused or path.name.startswith(".config.json.")


def _difference(earlier: dict[str, Any], request: dict[str, Any]) -> str:
    for name in sorted(earlier.keys() | request.keys()):
        was, now = earlier.get(name), request.get(name)
        if isinstance(was, dict) and isinstance(now, dict) and was != now:
            return _difference(was, now)
        if was != now and name in ("command", "data", "arm"):
            return f"its {name} is {was!r}, this command's is {now!r}"
        if was != now:
            was, now = _as_option(name, was), _as_option(name, now)
            return f"it was made with {was}, this command has {now}"
    return "its settings differ"


def _as_option(name: str, value: Any) -> str:
    """A setting as the command line gives it."""
    if value is None:
        return f"no {option(name)}"
    words = ",".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
    return f"{option(name)} {words}"


def state_of(command: str, data: str, catalog: Catalog | None) -> str:
    """A text that changes with the names, labels and splits of images, and with their files.

    The folder's own name is left out: the same images by another path are the same. It is empty
    for the demo, whose images never change, for images in memory, which the request knows already,
    and for a ladder's draws, which nobody asks for.
    """
    if catalog is None or command in ("demo", "ladder") or is_in_memory(data):
        return ""

    def texts() -> Iterator[str]:
        for row, name in enumerate(catalog.names):
            label = catalog.labels[row]
            state = catalog.source.signature(row).split("|")[-3:]  # size and times, not the path
            yield from (name, "" if label < 0 else catalog.classes[label])
            yield from (str(catalog.splits[row]), *state)

    return digest_of(texts())

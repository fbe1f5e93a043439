"""Saving a stage and loading it: a kill leaves none or all of it, and damage is noticed."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.chain.types import Beliefs, Finished, Outcome
from tutelage.models.folder import load_model, save_model
from tutelage.stats.metrics import Comparison
from tutelage.stats.pseudo_labels import PseudoLabels
from tutelage.system.errors import TutelageError, told
from tutelage.system.files import digest, install, write_atomically


def save_stage(folder: Path, done: Finished) -> None:
    """Write a stage into a neighbour folder, then rename it."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    outcome = done.outcome
    save_model(outcome.model, partial)
    pools = {f"pool{i}": p for i, p in enumerate(outcome.beliefs.pool) if p is not None}
    _save_arrays(partial / "beliefs.npz", judged=outcome.beliefs.judged, **pools)
    if outcome.pseudo_labels is not None:
        _save_arrays(partial / "pseudo_labels.npz", **vars(outcome.pseudo_labels))
    record = {
        "accepted": done.accepted,
        "reason": done.reason,
        "seconds": done.seconds,
        "comparison": None if done.comparison is None else dataclasses.asdict(done.comparison),
        "frozen": outcome.frozen,
        "folds": len(outcome.beliefs.pool),
        "choice": outcome.choice,
        "files": {path.name: digest(path.read_bytes()) for path in sorted(partial.iterdir())},
    }
    write_atomically(partial / "stage.json", json.dumps(record, indent=2) + "\n")
    install(partial, folder)


def _save_arrays(path: Path, **arrays: Any) -> None:
    """``np.savez``, whose archive cannot be closed once a write of it has failed."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def is_whole(folder: Path, say: Callable[[str], None]) -> bool:
    """Whether a stage is kept in ``folder``; a damaged one is named and moved aside."""
    if not folder.exists():
        return False
    try:
        record = json.loads((folder / "stage.json").read_text())
        for name, written in record.get("files", {}).items():
            if digest((folder / name).read_bytes()) != written:
                raise ValueError(f"the bytes of {name} are not those that were written")
    # Other disk errors may pass. A record that is a list has no attributes of an object.
    except (FileNotFoundError, ValueError, AttributeError) as error:
        aside = folder.with_name(f".{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        say(f"stage {folder.name} is damaged ({error}): it was moved to {aside} and is done again")
        return False
    return True


def load_stage(folder: Path, name: str) -> Finished:
    """A finished stage, as its folder holds it."""
    try:
        return _read_stage(folder, name)
    except Exception as error:  # numpy, zipfile and json each raise their own
        raise TutelageError(
            f"the stage in {folder} cannot be read: {told(error)}; delete "
            "that folder, and the same command makes it again"
        ) from error


def _read_stage(folder: Path, name: str) -> Finished:
    record = json.loads((folder / "stage.json").read_text())
    with np.load(folder / "beliefs.npz") as arrays:
        pool = [arrays.get(f"pool{i}") for i in range(record["folds"])]
        beliefs = Beliefs(pool, arrays["judged"])
    labels = None
    if (folder / "pseudo_labels.npz").exists():
        with np.load(folder / "pseudo_labels.npz") as arrays:
            labels = PseudoLabels(**dict(arrays))
    outcome = Outcome(load_model(folder), beliefs, record["frozen"], labels, record["choice"])
    comparison = None if record["comparison"] is None else Comparison(**record["comparison"])
    verdict = (record["accepted"], record["reason"], record["seconds"])
    return Finished(name, *verdict, comparison, outcome)

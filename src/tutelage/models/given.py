"""The model folders that a setting names. Imports no torch: what is no model is refused at once."""

from __future__ import annotations

from pathlib import Path

from tutelage.system.errors import TutelageError
from tutelage.system.nearest import did_you_mean

WEIGHTS, SPEC = "model.safetensors", "model.json"


def model_folders(names: str) -> list[str]:
    """The folders (one at least) of a setting that may name several, separated by commas."""
    if (Path(names) / SPEC).is_file():  # a folder's own name may have a comma
        return [names]
    return [name.strip() for name in names.split(",") if name.strip()] or [names]


def trained_teachers(names: str) -> list[str]:
    """The model folders that a student is to learn from.

    Raises:
        TutelageError: one is no model folder.
    """
    folders = model_folders(names)
    for folder in folders:
        if not (Path(folder) / SPEC).exists():
            raise TutelageError(
                f"distill needs a trained teacher, but {folder!r} is no model folder; "
                "give one, such as --teacher RUN/teacher, or several separated by commas"
                f"{'' if Path(folder).exists() else did_you_mean(folder)}"
            )
    return folders

"""Errors that say what was found, what was expected, and what to do."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


class TutelageError(Exception):
    """Something the user can fix; the command line prints it without a traceback."""


class MissingExtra(TutelageError):
    """A command needs packages that only an optional extra installs."""


def told(error: object) -> str:
    """What an error says without its number and path, or else its kind: some say nothing."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def refuse_existing(*paths: Path) -> None:
    """Refuse to write over a file that is there."""
    for path in paths:
        if path.exists():
            raise TutelageError(f"{path} exists; choose another name, or delete it first")


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``; MissingExtra says which extra brings it if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # the package is there, but one of its own dependencies is broken: show that
        raise _missing(top, extra) from error


def need_training() -> None:
    """Raise MissingExtra, with what to install, if a package that training imports is missing.

    None of them is imported: that takes seconds.
    """
    for package in ("torch", "timm", "pyarrow", "matplotlib", "onnx"):
        if importlib.util.find_spec(package) is None:
            raise _missing(package, "train")


def _missing(package: str, extra: str) -> MissingExtra:
    return MissingExtra(
        f"this needs the package '{package}', which is not installed; "
        f'install it with: pip install "tutelage[{extra}]"'
    )

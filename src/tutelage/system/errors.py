"""Errors that say what was found, what was expected, and what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


class TutelageError(Exception):
    """Something the user can fix; the command line prints it without a traceback."""


class MissingExtra(TutelageError):
    """A command needs packages that only an optional extra installs."""


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``; MissingExtra says which extra brings it if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # the package is there, but one of its own dependencies is broken: show that
        raise MissingExtra(
            f"this needs the package '{top}', which is not installed; "
            f'install it with: pip install "tutelage[{extra}]"'
        ) from error


def need_training() -> None:
    """Raise MissingExtra, with what to install, if a package that training imports is missing."""
    for module in ("torch", "timm", "pyarrow", "jinja2", "matplotlib", "onnx"):
        need(module, "train")

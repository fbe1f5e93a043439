"""tutelage: a small, exported image classifier from few labels, with proof that it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tutelage._version import __version__
from tutelage.system.errors import MissingExtra, TutelageError

if TYPE_CHECKING:
    from tutelage.api import (
        demo,
        distill,
        evaluate,
        export,
        predict,
        pseudo_label,
        run,
        self_train,
        suggest,
        transfer,
    )
    from tutelage.estimator import FewLabelClassifier

__all__ = [
    "FewLabelClassifier",
    "MissingExtra",
    "TutelageError",
    "__version__",
    "demo",
    "distill",
    "evaluate",
    "export",
    "predict",
    "pseudo_label",
    "run",
    "self_train",
    "suggest",
    "transfer",
]


def __getattr__(name: str) -> Any:
    """Import the verbs when they are first used."""
    if name == "FewLabelClassifier":
        from tutelage.estimator import FewLabelClassifier

        return FewLabelClassifier
    if name in __all__:
        from tutelage import api

        return getattr(api, name)
    raise AttributeError(f"module 'tutelage' has no attribute '{name}'")

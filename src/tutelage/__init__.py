"""tutelage: a small, exported image classifier from few labels, with proof that it works."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tutelage import api
from tutelage._version import __version__ as __version__
from tutelage.system.errors import MissingExtra as MissingExtra
from tutelage.system.errors import TutelageError as TutelageError

if TYPE_CHECKING:  # checkers read the names that the rest of this module finds
    from tutelage.api import *  # noqa: F403
    from tutelage.deploy.answers import Prediction as Prediction
    from tutelage.deploy.predict import Model as Model
    from tutelage.deploy.predict import load as load
    from tutelage.estimator import FewLabelClassifier as FewLabelClassifier

_VERBS = api.VERBS
_LATER = {  # what imports more than a verb does until it is called
    "FewLabelClassifier": "tutelage.estimator",
    "Model": "tutelage.deploy.predict",
    "Prediction": "tutelage.deploy.answers",
    "load": "tutelage.deploy.predict",
}

if not TYPE_CHECKING:  # a checker would take every name for a known one
    __all__ = ["MissingExtra", "TutelageError", "__version__", *_LATER, *_VERBS]

    def __getattr__(name: str) -> Any:
        """Import a class when it is first used."""
        if name in _LATER:
            return getattr(import_module(_LATER[name]), name)
        raise AttributeError(f"module 'tutelage' has no attribute '{name}'")

    def __dir__() -> list[str]:
        return sorted(__all__)


class _Room(ModuleType):
    """A package that has the name of a verb, such as ``tutelage.review``, can be called as one."""

    __wrapped__: Any  # the verb, also for its signature

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return self.__wrapped__(*arguments, **settings)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _VERBS:  # its import replaces the verb
            value.__class__ = _Room
            vars(value)["__wrapped__"] = _VERBS[name]
        super().__setattr__(name, value)


globals().update(_VERBS)
sys.modules[__name__].__class__ = _Package

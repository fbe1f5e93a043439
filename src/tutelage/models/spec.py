"""What a saved model must remember besides its weights. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, TypeVar

from tutelage.system.errors import TutelageError

FORMAT = 1
# A network is built before its weights are read: a file must not ask for one of any size.
MAX_SIDE = 2048  # pixels; timm's largest are made for 1024
MAX_WIDTH = 65_536  # classes, and channels of a neck
MAX_MEMBERS = 16  # trunks of a joint model

Described = TypeVar("Described")


@dataclass(frozen=True)
class TrunkSpec:
    """One trunk of several that look at the same view; the fields are those of ``ModelSpec``."""

    architecture: str
    cut: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    head_hidden: int | None = None
    skipped: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """The description of a classifier, written as ``model.json``; it refuses impossible values."""

    architecture: str  # timm's name
    cut: int | None  # leading stages kept of the architecture; None keeps the whole trunk
    classes: tuple[str, ...]  # names in the order of the outputs (K)
    input_size: int  # side in pixels of the square view that the trunk sees
    canvas: int  # side in pixels of the square that an image is squashed to first
    crop_pct: float  # fraction of the short side kept by the centre view
    mean: tuple[float, float, float]  # subtracted from each channel of images in [0, 1]
    std: tuple[float, float, float]  # divides each channel then
    temperature: float = 1.0  # divides the logits before the softmax
    # An image with a higher energy (``tutelage.stats.unknown.energy`` of the logits, not divided
    # by the temperature) is of none of the classes; None if not fitted.
    unknown_threshold: float | None = None
    # (class, P): an image is called so from this probability on, and else after the likeliest
    # other class; None calls every image after the likeliest class.
    decision_threshold: tuple[str, float] | None = None
    head_hidden: int | None = None  # width of the neck of a cut student; None has no neck
    skipped: tuple[str, ...] = ()  # residual blocks of a cut trunk that pass their input through
    # Numbers, from 1, of the stages whose maps' channel means and standard deviations are features
    # too, after the trunk's own.
    levels: tuple[int, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)  # of packages, when the model was made
    # The trunks of a joint model, which normalises and cuts nothing itself; () for one trunk.
    members: tuple[TrunkSpec, ...] = ()

    def __post_init__(self) -> None:
        checks = {
            "a joint model has 2 to 16 members": not self.members
            or 2 <= len(self.members) <= MAX_MEMBERS,
            "only the members of a joint model can be cut or have levels": not self.members
            or not (self.cut or self.head_hidden or self.levels),
            "classes must be unique and not empty": len(set(self.classes)) == len(self.classes) > 0,
            f"there may be {MAX_WIDTH:,} classes at most": len(self.classes) <= MAX_WIDTH,
            "input_size and canvas must be positive": min(self.input_size, self.canvas) > 0,
            f"input_size and canvas may be {MAX_SIDE} at most": max(self.input_size, self.canvas)
            <= MAX_SIDE,
            f"head_hidden must be 1 to {MAX_WIDTH:,}": 1 <= (self.head_hidden or 1) <= MAX_WIDTH,
            "crop_pct must lie in (0, 1]": 0.0 < self.crop_pct <= 1.0,
            "mean and std must have three values": len(self.mean) == len(self.std) == 3,
            "std must be positive": min(self.std, default=0.0) > 0.0,
            "temperature must be positive": self.temperature > 0.0,
            "blocks can be skipped in a cut trunk only": not self.skipped or self.cut is not None,
            "levels must rise from 1 and lie within the cut": _within(self.levels, self.cut),
            "unknown_threshold must be finite": self.unknown_threshold is None
            or math.isfinite(self.unknown_threshold),
            "decision_threshold must be a class and a probability": self.decision_threshold is None
            or (
                self.decision_threshold[0] in self.classes and 0 <= self.decision_threshold[1] <= 1
            ),
        }
        for rule, holds in checks.items():
            if not holds:
                raise TutelageError(f"bad model description: {rule}; got {self!r:.1000}")
        _ = self.trunks  # each member of a joint model is checked in the same way

    @property
    def trunks(self) -> tuple[ModelSpec, ...]:
        """Each trunk as a model of its own: the members of a joint model; of any other, itself."""
        if not self.members:
            return (self,)
        return tuple(
            dataclasses.replace(self, members=(), **vars(member)) for member in self.members
        )

    @property
    def has_levels(self) -> bool:
        """Whether the head may look at the middle stages of a trunk."""
        return any(trunk.levels for trunk in self.trunks)

    def to_json(self) -> str:
        """The description as the text of ``model.json``."""
        fields = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read ``to_json``'s text."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TutelageError(f"the model description is not JSON: {error}") from error
        if not isinstance(fields, dict) or "format" not in fields:
            raise TutelageError("the model description has no 'format' field: not a tutelage model")
        version = fields.pop("format")
        if version != FORMAT:
            raise TutelageError(
                f"the model has format {version!r}, this tutelage reads format {FORMAT}; "
                "use the tutelage version that wrote it (see 'versions' in model.json)"
            )
        if isinstance(members := fields.get("members"), list):
            fields["members"] = [_described(TrunkSpec, member) for member in members]
        return _described(cls, fields)


def _described(kind: type[Described], fields: Any) -> Described:
    """A dataclass from what JSON holds of it, its lists made tuples."""
    if not isinstance(fields, dict):
        raise TutelageError(
            f"the model description has {fields!r:.80} in place of a trunk's fields; restore "
            "model.json as it was saved"
        )
    described: Any = kind
    known = {f.name: f for f in dataclasses.fields(described)}
    needed = {n for n, f in known.items() if f.default is f.default_factory}  # both MISSING
    missing, unknown = sorted(needed - fields.keys()), sorted(fields.keys() - known.keys())
    if missing or unknown:
        raise TutelageError(
            f"the model description lacks {missing or 'nothing'} and has unknown "
            f"{unknown or 'nothing'}; restore model.json as it was saved"
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    hints = typing.get_type_hints(kind)
    if wrong := [name for name, value in values.items() if not _fits(value, hints[name])]:
        name = wrong[0]
        raise TutelageError(
            f"the model description has a wrong type: {name} is {fields[name]!r:.80}, expected "
            f"{known[name].type}; restore model.json as it was saved"
        )
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON, its lists made tuples, is of a field's type."""
    inner = typing.get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in inner)
    if typing.get_origin(hint) is tuple:
        each = inner[:1] * len(value) if inner[-1] is ... and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    if typing.get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(v, inner[1]) for v in value.values())
    if hint in (int, float):
        number = isinstance(value, int | hint) and not isinstance(value, bool)
        return number and abs(value) < 1e300  # Python's JSON knows NaN, Infinity and any integer
    return isinstance(value, hint)


def _within(levels: tuple[int, ...], cut: int | None) -> bool:
    rising = list(levels) == sorted(set(levels))
    return rising and all(1 <= level <= (cut or level) for level in levels)

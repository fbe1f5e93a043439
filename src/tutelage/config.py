"""Every setting, as frozen dataclasses; the command line is built from them. Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import os
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_type_hints

from tutelage.system.errors import TutelageError


def setting(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field whose help text is the command line's."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class DataConfig:
    """Which images, which labels, how long, on what."""

    labels_per_class: int | None = setting(
        None, "keep this many labels per class; the rest of train becomes unlabelled"
    )
    limit: int | None = setting(None, "at most this many training images besides the labelled ones")
    decisions: str | None = setting(
        None,
        "a run folder whose images were reviewed (tutelage review), or several, separated by "
        "commas: what was decided there are labels here",
    )
    duplicates: str = setting(
        "drop",
        "copies of test and val images, images under two labels and exact copies of labelled "
        "ones: leave them out of training, or only report them",
        ("drop", "keep"),
    )
    seed: int = setting(0, "draws the labelled subset, the folds and every view")
    device: str = setting("auto", "where to compute", ("auto", "cpu", "cuda"))
    minutes: float | None = setting(
        None, "time budget to plan for (default: 3.5, plus 1 per 1,000 images, at most 12)"
    )
    teacher: str = setting(
        "tf_efficientnet_lite0",
        "any timm architecture, or the folder of a tutelage model; for 'distill' one or several "
        "folders, separated by commas",
    )
    weights: str | None = setting(
        None, "a .safetensors file with the teacher's weights, or 'none' for random ones"
    )
    track: str | None = setting(
        None,
        "also send figures to tensorboard, mlflow or wandb, or to several, separated by commas",
    )
    checkpoint_seconds: float = setting(
        60.0, "between checkpoints within a training, which a run that was cut off goes on from"
    )
    input_size: int | None = setting(None, "side of the square the network sees, in pixels")
    canvas: int | None = setting(None, "side of the square every image is stored at, in pixels")
    store_gb: float | None = setting(
        None,
        "most gigabytes of disk for decoded images; more of them are decoded anew whenever they "
        "are needed (default: nine tenths of what is free)",
    )


@dataclass(frozen=True)
class TransferConfig:
    """A new head on a pretrained trunk."""

    trunk: str = setting(
        "auto",
        "train the trunk, train it with online pseudo-labels, freeze it, or let the plan choose",
        ("auto", "frozen", "trained", "online"),
    )
    features: str = setting(
        "auto",
        "what the head looks at: the trunk's last features, means and deviations of its middle "
        "stages, or what held-out labels choose",
        ("auto", "last", "levels"),
    )
    lr_head: float = setting(3e-3, "learning rate of the head")
    lr_trunk: float = setting(3e-4, "learning rate of the trunk's last layers")
    layer_decay: float = setting(0.85, "factor on the learning rate per layer toward the input")
    weight_decay: float = setting(0.02, "weight decay; none on norms and biases")
    optimizer: str = setting("adamw", "optimiser of trunk and head", ("adamw", "sgd"))
    unfreeze: str = setting(
        "all",
        "train all layers of the trunk at once, or start one after the other from the head down "
        "over the first half of the steps",
        ("all", "gradual"),
    )
    balance: str = setting(
        "none",
        "classes with unequal numbers of labels: leave them, weigh the rare ones more, adjust the "
        "logits in training, or adjust them where held-out labels say so; online rounds align "
        "to the pool's classes instead",
        ("none", "weights", "logit-adjustment", "auto"),
    )
    label_smoothing: float = setting(
        0.0, "share of the uniform distribution in the teacher's labels, 0 to 0.9"
    )
    drop_rate: float = setting(0.2, "dropout before the head")
    drop_path_rate: float = setting(0.1, "stochastic depth of a trained trunk")
    augment: str = setting(
        "randaugment",
        "operations of the strong view, on top of crop and flip; 'center' leaves those out, too; "
        "'auto' measures which view covers the unlabelled images best",
        ("center", "none", "randaugment", "trivialaugment", "auto"),
    )
    crop_scale: float = setting(
        0.35, "least area of the strong view's crop, a fraction of the image's"
    )
    num_ops: int = setting(2, "RandAugment: operations per image")
    magnitude: int = setting(9, "RandAugment: strength, 0 to 30")
    mix: str = setting(
        "cutmix", "mix images and targets by area or by blending", ("none", "cutmix", "mixup")
    )


@dataclass(frozen=True)
class SelfTrainConfig:
    """Rounds of pseudo-labels for the pool."""

    rounds: int | None = setting(None, "rounds of self-training (default: planned)")
    pseudo_labels: str = setting(
        "sharpened",
        "train on the teacher's best guess, on its probabilities, or on these with their square "
        "taken",
        ("sharpened", "hard", "soft"),
    )
    ensemble: str = setting(
        "none",
        "who labels the pool: the teacher alone, or its mean with the models of the folds",
        ("none", "folds"),
    )
    curriculum: str = setting(
        "none",
        "let every round learn from the whole pool, or from more and more of what the teacher is "
        "surest of, class by class",
        ("none", "percentiles"),
    )
    alignment: float = setting(
        1.0, "how far beliefs about the pool are moved to its estimated class frequencies, 0 to 1"
    )
    out_of_class: str = setting(
        "auto",
        "pool images that belong to none of the classes: leave out what is detected, or keep all",
        ("auto", "keep"),
    )
    clusters: str = setting(
        "auto",
        "the pool's clusters: they label it first where held-out labels are likelier so, and where "
        "they contradict the labels no round is planned; or ignore them",
        ("auto", "ignore"),
    )
    online: str = setting(
        "fixmatch",
        "online pseudo-labels: how the weak view of an image teaches its strong view",
        ("fixmatch", "flexmatch", "freematch", "softmatch", "mean-teacher"),
    )
    threshold: float = setting(
        0.95, "confidence an image must reach; for fixmatch, and flexmatch's best class"
    )


@dataclass(frozen=True)
class DistillConfig:
    """A small student mimics the teacher."""

    student: str = setting(
        "cut", "'cut' or 'cut:N' (the teacher's first N stages), or any timm architecture"
    )
    student_weights: str | None = setting(
        None, "a .safetensors file with a named student's weights, or 'none' for random ones"
    )
    lr_student: float = setting(2e-3, "learning rate of the student")
    temperature: float = setting(2.0, "T of the softened outputs")
    alpha: float = setting(0.7, "weight of the teacher where a label is known, 0 to 1")
    kd: str = setting(
        "kd",
        "how student and teacher are compared: KL, decoupled KL (the same of two classes), or "
        "correlation",
        ("kd", "dkd", "dist"),
    )
    standardize: str = setting(
        "no",
        "standardise each image's logits of both models before; for three classes or more",
        ("no", "yes"),
    )
    hint_weight: float = setting(0.0, "weight of foretelling the teacher's features; 0 for none")
    teacher_cache: int = setting(
        0, "ask the teacher about this many batches only and repeat them; 0 for new ones each step"
    )
    max_latency_ms: float | None = setting(
        None,
        "most milliseconds of the exported student for one image on one core, preprocessing "
        "included; where the planned student is slower, the slowest that is not is trained",
    )
    max_size_mb: float | None = setting(
        None, "most megabytes of the exported student, chosen in the same way"
    )
    candidates: int = setting(
        1, "students of different cost that share the time; held-out images choose among them"
    )

    @property
    def limited(self) -> bool:
        """Whether the student is chosen by what it costs."""
        limits = (self.max_latency_ms, self.max_size_mb)
        return self.candidates > 1 or any(limit is not None for limit in limits)


@dataclass(frozen=True)
class TrainConfig:
    """One call of the training loop, resolved from the settings and the plan.

    With ``schedule_steps`` the learning rates are those of a longer training's ``steps`` from
    ``schedule_first`` on: a part of it that something happens after.
    """

    steps: int
    schedule_first: int = 0
    schedule_steps: int = 0
    lr_head: float = 3e-3
    lr_trunk: float = 3e-4
    layer_decay: float = 1.0
    weight_decay: float = 0.02
    warmup: float = 0.1
    clip_norm: float = 5.0
    ema_decay: float = 0.99
    log_every: int = 20


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run; a stage command uses the groups it knows."""

    data: DataConfig = DataConfig()
    transfer: TransferConfig = TransferConfig()
    self_train: SelfTrainConfig = SelfTrainConfig()
    distill: DistillConfig = DistillConfig()

    @property
    def pretrained(self) -> bool:
        """The trunk starts with weights and statistics that are worth keeping."""
        return self.data.weights != "none"

    def changed(self, group: str, **values: Any) -> RunConfig:
        """The same settings but for some of one group."""
        part = dataclasses.replace(getattr(self, group), **values)
        return dataclasses.replace(self, **{group: part})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, as config.json keeps them."""
        return dataclasses.asdict(self)


GROUPS: dict[str, tuple[str, ...]] = {
    "demo": ("data", "transfer", "self_train", "distill"),
    "run": ("data", "transfer", "self_train", "distill"),
    "transfer": ("data", "transfer"),
    "self-train": ("data", "transfer", "self_train"),
    "distill": ("data", "transfer", "distill"),
    "augment": ("data", "transfer"),
    "ladder": ("data", "transfer", "self_train", "distill"),
}
"""The setting groups that each command on a data set knows."""

STRONG_VIEW = ("num_ops", "magnitude", "crop_scale")
SELF_TRAINING = tuple(item.name for item in fields(SelfTrainConfig) if item.name != "rounds")
_TRUNK_ONLY = ("trunk", "lr_head", "lr_trunk", "layer_decay", "drop_path_rate", "unfreeze")
_TEACHER_ONLY = ("features", "balance", "label_smoothing")
_TRAINING_ONLY = ("weight_decay", "optimizer", "drop_rate", "mix")
# Nothing is trained by "augment", and no teacher by "distill": such settings are not offered.
_LEFT_OUT = {
    "distill": (*_TRUNK_ONLY, *_TEACHER_ONLY),
    "augment": (
        *_TRUNK_ONLY,
        *_TEACHER_ONLY,
        *_TRAINING_ONLY,
        "minutes",
        "track",
        "checkpoint_seconds",
    ),
    "ladder": ("track", "candidates"),
}


def group_fields(command: str) -> dict[str, tuple[str, dataclasses.Field[Any]]]:
    """Setting name -> (group, field) for one command."""
    defaults = RunConfig()
    return {
        item.name: (group, item)
        for group in GROUPS[command]
        for item in fields(getattr(defaults, group))
        if item.name not in _LEFT_OUT.get(command, ())
    }


def without_effect(
    config: RunConfig,
    *,
    trained: bool,
    online: bool,
    student: bool,
    rounds: bool = True,
    folds: bool = True,
) -> list[str]:
    """Settings that differ from their defaults but that the planned work does not read.

    Args:
        config: the settings of a run.
        trained: a stage trains the teacher's trunk.
        online: a round labels its own weak views.
        student: a student is trained.
        rounds: self-training is planned.
        folds: choices are made on folds of the labels, each with models of its own.
    """
    unused = set() if trained else {*_TRUNK_ONLY[1:]}
    unused |= set() if trained or student else {*_TRAINING_ONLY}
    unused |= set() if online else {"online"}
    fixed_threshold = online and config.self_train.online in ("fixmatch", "flexmatch")
    unused |= set() if fixed_threshold else {"threshold"}
    unused |= set() if rounds else {*SELF_TRAINING}
    unused |= set() if folds else {"ensemble"}
    unused |= {*STRONG_VIEW} if config.transfer.augment in ("auto", "center") else set()
    settings, defaults = config.to_dict(), RunConfig().to_dict()
    return sorted(
        name
        for group, values in settings.items()
        for name, value in values.items()
        if name in unused and value != defaults[group][name]
    )


def make_config(command: str, options: dict[str, Any]) -> RunConfig:
    """Settings of ``command`` with ``options`` in place of the defaults.

    Raises:
        TutelageError: unknown settings or values outside their range; all are named at once.
    """
    known = group_fields(command)
    problems = []
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS[command]}
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(sorted(known))}"
            )
            problems.append(f"'{command}' has no setting '{name}'{hint}")
            continue
        group, item = known[name]
        groups[group][name] = value = os.fspath(value) if isinstance(value, os.PathLike) else value
        kind = field_type(group, name)
        if not _fits(value, kind, optional=item.default is None):
            problems.append(f"{name} is {value!r}, expected {_KINDS[kind]}")
            continue
        choices = item.metadata["choices"]
        low, high = _RANGES.get(name, (0, 0))
        if choices and value not in choices:
            problems.append(f"{name} is {value!r}, expected one of {', '.join(choices)}")
        elif name == "teacher" and command != "distill" and _is_list(value):
            problems.append(f"teacher is {value!r}, expected one; only 'distill' takes several")
        elif name in _RANGES and value is not None and not low <= value <= high:
            problems.append(f"{name} is {value}, expected {low:g} to {high:g}")
    if problems:
        raise TutelageError("; ".join(problems))
    config = RunConfig()
    for group, values in groups.items():
        config = config.changed(group, **values)
    return config


_RANGES: dict[str, tuple[float, float]] = {
    "labels_per_class": (1, float("inf")),
    "limit": (0, float("inf")),
    "seed": (0, 2**32 - 1),
    "minutes": (0.1, float("inf")),
    "checkpoint_seconds": (0, float("inf")),
    "input_size": (32, 1024),
    "canvas": (16, 1024),
    "store_gb": (0, float("inf")),
    "rounds": (0, 20),
    "num_ops": (0, 10),
    "crop_scale": (0.01, 1),
    "magnitude": (0, 30),
    "alignment": (0, 1),
    "threshold": (0, 1),
    "alpha": (0, 1),
    "hint_weight": (0, 1e6),
    "teacher_cache": (0, 1e6),
    "max_latency_ms": (1e-3, float("inf")),
    "max_size_mb": (1e-3, float("inf")),
    "candidates": (1, 20),
    "drop_rate": (0, 0.9),
    "drop_path_rate": (0, 0.9),
    "layer_decay": (0.01, 1),
    "label_smoothing": (0, 0.9),
    "temperature": (0.1, 100),
    "lr_head": (0, 10),
    "lr_trunk": (0, 10),
    "lr_student": (0, 10),
    "weight_decay": (0, 10),
}


_KINDS: dict[type, str] = {int: "a whole number", float: "a number", str: "text"}


def _is_list(value: str) -> bool:
    """Whether a text names several things; a folder's own name may have a comma."""
    return "," in value and not os.path.isdir(value)


def _fits(value: Any, kind: type, *, optional: bool) -> bool:
    """Whether a Python caller's value is of a setting's type, as config.json can keep it."""
    if value is None:
        return optional
    accepted = (int, float) if kind is float else kind
    return isinstance(value, accepted) and not isinstance(value, bool)


def field_type(group: str, name: str) -> type:
    """The plain type of a setting, without its None."""
    hint = get_type_hints(type(getattr(RunConfig(), group)))[name]
    kinds: tuple[type, ...] = getattr(hint, "__args__", (hint,))
    return next(kind for kind in kinds if kind is not type(None))


Trunk = Literal["frozen", "trained", "online"]

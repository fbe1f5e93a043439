"""Which sides of images a trunk takes, and what setting one changes."""

import pytest

pytest.importorskip("timm")

import tiny
import torch

from tutelage.models.classifier import Classifier, members_of
from tutelage.models.folder import load_model, save_model
from tutelage.models.sizes import (
    check_input_size,
    fitting_sizes,
    native_size,
    set_input_size,
    size_step,
    with_input_size,
)
from tutelage.models.zoo import create, cut, join
from tutelage.system.errors import TutelageError


def trunk(architecture: str, size: int | None = None) -> Classifier:
    return create(architecture, ["a", "b"], canvas=64, input_size=size, weights="none").eval()


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("architecture", "step"),
    [
        ("test_resnet", 1),
        ("test_vit", 16),
        ("vit_small_patch14_dinov2", 14),
        ("test_maxvit", 32),
        ("efficientvit_m0", 32),  # its last stride is 64, and its own side 224
        ("levit_128s", None),
    ],
)
def test_what_sides_are_multiples_of(architecture: str, step: int | None) -> None:
    model = trunk(architecture)
    assert size_step(model) == step
    if step:
        assert model.spec.input_size % step == 0


def test_a_part_and_a_network_unknown_to_timm_have_a_step_too() -> None:
    assert size_step(cut(trunk("test_resnet"), 2)) == size_step(tiny.classifier()) == 1


def test_several_trunks_take_the_sides_that_each_takes() -> None:
    joint = join([trunk("test_resnet", 32), trunk("test_vit", 32)])
    assert size_step(joint) == 16
    set_input_size(joint, 48)
    assert [member.spec.input_size for member in members_of(joint)] == [48, 48]
    assert joint(images(48)).shape == (2, 2)
    assert size_step(join([trunk("test_resnet"), trunk("levit_128s")])) is None


def test_the_nearest_sides_that_fit() -> None:
    assert fitting_sizes((224, 192, 160, 128, 96), 1) == [224, 192, 160, 128, 96]
    assert fitting_sizes((224, 192, 160, 128, 96), 14) == [224, 196, 154, 126, 98]
    assert fitting_sizes((80, 72, 5), 32) == [64, 32]


@torch.no_grad()
def test_position_embeddings_are_resampled_and_no_other_weight() -> None:
    model, size = trunk("test_vit"), 64
    convolutional = trunk("test_resnet")  # is only told
    torch.testing.assert_close(
        with_input_size(convolutional, 72).state_dict(), convolutional.state_dict()
    )
    assert with_input_size(convolutional, convolutional.spec.input_size) is convolutional
    before = {name: value.clone() for name, value in model.state_dict().items()}
    resized = with_input_size(model, size)
    assert resized.spec.input_size == size
    assert resized.features(images(size)).shape == (2, model.num_features)
    changed = [n for n, v in resized.state_dict().items() if v.shape != before[n].shape]
    assert changed == ["trunk.pos_embed"]
    for name, value in model.state_dict().items():  # of the original
        assert torch.equal(value, before[name])
        if name not in changed:
            assert torch.equal(resized.state_dict()[name], value)


@torch.no_grad()
def test_resized_embeddings_still_tell_where_a_patch_is() -> None:
    """A picture and its enlargement are alike to a resized trunk, more than with other places."""
    model = trunk("test_vit", 96)
    grid = model.trunk.pos_embed[:, -36:].reshape(6, 6, -1).permute(2, 0, 1)
    smaller = with_input_size(model, 64).trunk.pos_embed[:, -16:].reshape(4, 4, -1)
    expected = torch.nn.functional.interpolate(
        grid[None], size=(4, 4), mode="bicubic", antialias=True, align_corners=False
    )
    torch.testing.assert_close(smaller.permute(2, 0, 1), expected[0])


@pytest.mark.parametrize("architecture", ["test_vit", "swin_tiny_patch4_window7_224"])
@torch.no_grad()
def test_a_resized_model_is_loaded_as_it_was(architecture: str, tmp_path: object) -> None:
    model = trunk(architecture)
    set_input_size(model, 128)
    set_input_size(model, 96)  # as a run does: to the planned side, then to that of the training
    save_model(model, f"{tmp_path}/model")
    assert torch.equal(load_model(f"{tmp_path}/model")(images(96)), model(images(96)))


def test_sides_between_two_steps_are_refused_and_nothing_changed() -> None:
    model = trunk("test_vit")
    before = model.spec, model.trunk.pos_embed.shape
    with pytest.raises(TutelageError, match=r"100 px .* a multiple of 16; choose 96 or 112"):
        set_input_size(model, 100)
    assert (model.spec, model.trunk.pos_embed.shape) == before
    with pytest.raises(TutelageError, match="choose 96 or 112"):
        trunk("test_vit", 100)


def test_what_timm_cannot_resize_is_built_for_the_asked_side_or_refused() -> None:
    model = trunk("levit_128s", 128)
    check_input_size(model)
    assert native_size(model.trunk) == 224
    with pytest.raises(TutelageError, match=r"was built for views of 128 px .* create it for"):
        set_input_size(model, 96)
    with pytest.raises(TutelageError, match=r"takes no views of 64 px .* such as its own 224"):
        trunk("efficientformer_l1", 64)
    with pytest.raises(TutelageError, match="inception_v3 takes no views of 40 px"):
        trunk("inception_v3", 40)  # the maps vanish


def test_the_check_leaves_the_mode_and_the_statistics() -> None:
    model = trunk("test_resnet").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_input_size(model)
    assert model.training
    torch.testing.assert_close(model.state_dict(), before)

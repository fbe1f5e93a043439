"""Several trunks in one model."""

import dataclasses

import pytest

pytest.importorskip("timm")

import torch
from torch import Tensor

from tutelage.models.classifier import Classifier, columns_of, members_of
from tutelage.models.spec import ModelSpec
from tutelage.models.zoo import (
    count_stages,
    create,
    cut,
    first_trunk,
    join,
    with_levels,
    without_levels,
)

NAMES = ("test_efficientnet", "test_resnet", "test_convnext")


def trunk(name: str, seed: int) -> Classifier:
    """A network with random weights and a normalisation that no other has."""
    torch.manual_seed(seed)
    model = create(name, ["a", "b", "c"], canvas=64, input_size=48, weights="none").eval()
    shade = 0.1 * (seed + 1)
    spec = dataclasses.replace(model.spec, mean=(shade, 0.2, 0.3), std=(0.3, 0.2, shade))
    alone = Classifier(model.trunk, spec, model.own_features).eval()
    torch.nn.init.normal_(alone.head.weight)
    return alone


@pytest.fixture(scope="module")
def trunks() -> list[Classifier]:
    return [trunk(name, seed) for seed, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("change", [lambda model: model, with_levels])
def test_features_of_each_trunk_are_what_it_gives_alone(trunks, images, change) -> None:
    joint = change(join(trunks)).eval()
    found = joint.features(images)
    assert found.shape == (2, joint.num_features)
    taken = torch.zeros(joint.num_features)
    for member, columns in zip(map(change, trunks), columns_of(joint), strict=True):
        expected = member.eval().features(images)
        parts = [found[:, columns.own], found[:, columns.levels]]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected)
        assert parts[0].shape[1] == member.own_features
        assert columns.own.stop <= joint.own_features <= columns.levels.start
        for span in (columns.own, columns.levels):
            taken[span] += 1
    assert torch.equal(taken, torch.ones(len(taken)))


@torch.no_grad()
def test_a_head_on_all_features_can_be_the_mean_of_a_head_on_each(trunks, images) -> None:
    joint = join(trunks)
    for model, columns in zip(trunks, columns_of(joint), strict=True):
        joint.head.weight[:, columns.own] = model.head.weight / len(trunks)
    joint.head.bias.copy_(torch.stack([model.head.bias for model in trunks]).mean(dim=0))
    expected = torch.stack([model(images) for model in trunks]).mean(dim=0)
    torch.testing.assert_close(joint.eval()(images), expected)


def test_a_joint_model_is_described_by_its_trunks(trunks) -> None:
    joint = join(trunks)
    assert joint.spec.architecture == "+".join(NAMES)
    assert [member.mean for member in joint.spec.members] == [m.spec.mean for m in trunks]
    assert ModelSpec.from_json(joint.spec.to_json()) == joint.spec
    assert joint.spec.classes == ("a", "b", "c")
    assert (joint.spec.mean, joint.spec.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert not [name for name in joint.state_dict() if "head" in name and ".trunk." not in name
                and name not in ("head.weight", "head.bias")]  # fmt: skip


def test_one_model_is_no_joint_one(trunks) -> None:
    assert join(trunks[:1]) is trunks[0]
    assert members_of(trunks[0]) == (trunks[0],)
    (columns,) = columns_of(trunks[0])
    assert columns.own == slice(0, trunks[0].num_features)
    assert first_trunk(trunks[0]) is trunks[0]


@torch.no_grad()
def test_joining_a_joint_model_takes_its_trunks(trunks, images) -> None:
    nested = join([join(trunks[:2]), trunks[2]]).eval()
    assert len(nested.spec.members) == 3
    torch.testing.assert_close(nested.features(images), join(trunks).eval().features(images))


@torch.no_grad()
def test_the_first_trunk_can_be_taken_out_and_cut(trunks, images) -> None:
    joint = join([cut(trunks[0], 3, neck=8).eval(), *trunks[1:]]).eval()
    joint.spec = dataclasses.replace(joint.spec, input_size=32, temperature=2.0)
    joint.freeze_trunk()
    first = first_trunk(joint)
    assert first.spec.members == ()
    assert (first.spec.architecture, first.spec.cut, first.spec.input_size) == (NAMES[0], 3, 32)
    assert first.spec.mean == trunks[0].spec.mean
    assert first.is_frozen
    assert not first.training
    assert count_stages(first) == 3
    torch.testing.assert_close(first.features(images), joint.features(images)[:, :8])
    student = cut(first, 2).eval()
    expected = cut(trunks[0], 2).eval()
    torch.testing.assert_close(student.features(images), expected.features(images))


@torch.no_grad()
def test_without_levels_is_the_plain_joint_model_again(trunks, images) -> None:
    joint = join(trunks).eval()
    joint.freeze_trunk()
    levelled = with_levels(joint)
    assert levelled.spec.has_levels
    assert levelled.spec.levels == ()  # they are its members'
    assert levelled.is_frozen
    back = without_levels(levelled)
    assert back.spec == joint.spec
    torch.testing.assert_close(back(images), joint(images))  # new heads start equal


def test_a_frozen_joint_trunk_stays_in_evaluation_mode_in_every_member(trunks) -> None:
    joint = join([trunk(name, 0) for name in NAMES[:2]])
    joint.freeze_trunk()
    joint.train()
    norms = [m for m in joint.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert not any(p.requires_grad for p in joint.trunk.parameters())
    assert joint.head.weight.requires_grad

"""A plan that grows: one matrix, one mixer, one stencil, and a list."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from warps import warp

from tutelage.augment import Plan, extend, then
from tutelage.system.errors import TutelageError


def test_extend_gives_each_image_its_own():
    plan = extend.extend(
        Plan.identity(4),
        ("rotate", "saturation", "sharpness", "brightness"),
        np.array([[0, 1], [1, 3], [3, 3], [2, 0]]),
        np.array([[10.0, 0.5], [0.2, 1.4], [1.3, 0.9], [1.8, -20.0]], np.float32),
    )
    turned = (plan.matrix != torch.eye(2, 3)).flatten(1).any(1)
    assert turned.tolist() == [True, False, False, True]
    mixed = (plan.color != torch.eye(3)).flatten(1).any(1)
    assert mixed.tolist() == [True, True, False, False]
    assert (plan.stencil[:, 1, 1] != 1).tolist() == [False, False, False, True]
    words = str(plan).splitlines()
    assert words[1] == "image 1: saturation 0.2; brightness 1.4"
    assert words[2] == "image 2: brightness 1.3; brightness 0.9"
    assert words[3].endswith("sharpness 1.8")
    assert plan.amounts[0, 0] == 0  # a rotation is in the matrix


@settings(max_examples=10, deadline=None, derandomize=True)
@given(ratio=st.floats(0.4, 2.5), degrees=st.floats(-170, 170), tangent=st.floats(-0.8, 0.8))
def test_geometry_is_one_of_pixels_in_a_view_of_any_shape(ratio, degrees, tangent):
    """Lengths and angles: a matrix in pixels is a rotation, or a shear, whatever the view."""
    pixels = torch.diag(torch.tensor([ratio, 1.0]))

    def in_pixels(matrix: Tensor) -> Tensor:
        return pixels @ matrix[0, :2, :2] @ pixels.inverse()

    turn = in_pixels(warp("rotate", degrees, ratio))
    torch.testing.assert_close(turn @ turn.T, torch.eye(2), atol=1e-5, rtol=0)
    across = in_pixels(warp("shear_x", tangent, ratio))
    torch.testing.assert_close(across, torch.tensor([[1.0, tangent], [0.0, 1.0]]))
    down = in_pixels(warp("shear_y", tangent, ratio))
    torch.testing.assert_close(down, torch.tensor([[1.0, 0.0], [tangent, 1.0]]))


def test_unknown_operation_lists_the_known():
    with pytest.raises(TutelageError, match=r"'rotat'.*rotate"):
        then(Plan.identity(1), "rotat", 1.0)


def test_warps_multiply_in_their_order():
    plan = then(then(Plan.identity(3), "rotate", 30.0, 1.5), "translate_x", 0.2)
    plan = then(plan, "shear_y", torch.tensor([0.1, -0.2, 0.3]), 1.5)
    expected = (
        warp("rotate", torch.full((3,), 30.0), 1.5)
        @ warp("translate_x", torch.full((3,), 0.2))
        @ warp("shear_y", torch.tensor([0.1, -0.2, 0.3]), 1.5)
    )
    torch.testing.assert_close(plan.matrix, expected[:, :2])


def test_mixers_are_exact_and_merge_in_their_order():
    plan = then(then(Plan.identity(2), "saturation", 0.3), "saturation", torch.tensor([1.9, 0.0]))
    steps = plan.color * 4096
    assert torch.equal(steps, steps.round())
    expected = extend.saturation(np.array([1.9, 0.0], np.float32)) @ extend.saturation(
        np.array([0.3, 0.3], np.float32)
    )
    assert np.abs(plan.color.numpy() - expected).max() < 1e-3


def test_the_plan_so_far_is_not_changed():
    plan = Plan.identity(2)
    for name in extend.NAMES:
        then(plan, name, 0.7)
    for name, part in Plan.identity(2).tensors().items():
        assert torch.equal(getattr(plan, name), part)

import dataclasses
from collections import Counter

import numpy as np
import pytest
import tiny
import torch
from processes import on_ranks
from torch import Tensor

from tutelage.augment import Center, Strong, Weak, apply
from tutelage.data.stream import StreamedImages
from tutelage.heads.bank import CLEAN_VIEWS, Bank, bank_plans, look, make_bank
from tutelage.training.loader import Canvases

IMAGES = tiny.smooth_images(7)
DATA = tiny.canvases(IMAGES, np.linspace(0.5, 2.0, 7, dtype=np.float32))
ROWS = np.array([4, 1, 6, 0, 2])


def pixels(views: torch.Tensor) -> torch.Tensor:
    return views.flatten(1)


def test_plans_start_clean_and_alternate_weak_and_strong() -> None:
    plans = bank_plans(6, 0.8, Strong(), 0.35)
    assert plans[:2] == [(Center(0.8), False), (Center(0.8), True)]
    assert [type(policy) for policy, _ in plans[2:]] == [Weak, Strong, Weak, Strong]
    assert plans[2][0] == Weak(scale=(0.35, 1.0))
    assert [len(bank_plans(n, 0.8, Strong(), 0.35)) for n in (1, 2, 8)] == [1, 2, 8]
    assert {policy for policy, _ in bank_plans(4, 0.8, Center(0.8), 0.35)} == {Center(0.8)}


def test_look_is_in_the_order_of_the_rows_whatever_the_batch() -> None:
    images, aspect = DATA.take(ROWS)
    policy = Center(0.875)
    expected = pixels(apply(images, policy.plan(aspect), 16))
    for batch in (2, 64):
        found = look(DATA, ROWS, policy, pixels, 16, batch=batch)
        torch.testing.assert_close(found, expected)


def test_look_can_mirror() -> None:
    plain = look(DATA, ROWS, Center(0.875), pixels, 16).view(5, 3, 16, 16)
    mirrored = look(DATA, ROWS, Center(0.875), pixels, 16, mirrored=True).view(5, 3, 16, 16)
    torch.testing.assert_close(mirrored, plain.flip(3))


def test_look_reports_progress_and_draws_from_its_generator() -> None:
    done: list[int] = []
    draws = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    found = [
        look(DATA, ROWS, Weak(), pixels, 16, generator=g, progress=done.append, batch=2)
        for g in draws
    ]
    assert done == [2, 4, 5] * 3
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_bank_has_a_view_each_from_generators_of_their_own() -> None:
    done: list[int] = []
    bank = make_bank(
        DATA, ROWS, pixels, 16, bank_plans(5, 0.875, Strong(), 0.35), seed=3, progress=done.append
    )
    assert len(bank.views) == 5
    assert done == [5, 10, 15, 20, 25]
    fewer = make_bank(DATA, ROWS, pixels, 16, bank_plans(3, 0.875, Strong(), 0.35), seed=3)
    for a, b in zip(fewer.views, bank.views, strict=False):
        assert torch.equal(a, b)
    other = make_bank(DATA, ROWS, pixels, 16, bank_plans(3, 0.875, Strong(), 0.35), seed=4)
    assert torch.equal(other.views[0], fewer.views[0])
    assert not torch.equal(other.views[2], fewer.views[2])
    assert not torch.equal(bank.views[2], bank.views[4])


def test_clean_views_have_no_noise_and_take_keeps_views_together() -> None:
    bank = make_bank(DATA, ROWS, pixels, 16, bank_plans(4, 0.875, Strong(), 0.35), seed=3)
    assert len(bank.clean()) == CLEAN_VIEWS
    assert torch.equal(bank.clean()[0], look(DATA, ROWS, Center(0.875), pixels, 16))
    some = bank.take(np.array([3, 0]))
    assert isinstance(some, Bank)
    for part, view in zip(some.views, bank.views, strict=True):
        assert torch.equal(part, view[[3, 0]])


def test_a_bank_of_streamed_images_is_that_of_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.heads.bank._SPAN", 32)
    images = tiny.smooth_images(70, 16)
    aspect = np.linspace(0.5, 2.0, 70, dtype=np.float32)
    decoded = Counter[int]()

    def squash(row: int) -> tuple[np.ndarray, float, str]:
        decoded[row] += 1
        return images[row], 1.0, ""

    found = StreamedImages(squash, 70, 16, print)
    store = dataclasses.replace(tiny.store(images, aspect), images=found)
    rows = np.arange(1, 70)
    plans = bank_plans(5, 0.875, Strong(), 0.35)
    done: list[int] = []
    stored = make_bank(Canvases(tiny.store(images, aspect), rows, tiny.CPU), rows, pixels, 16,
                       plans, seed=3)  # fmt: skip
    bank = make_bank(
        Canvases(store, rows, tiny.CPU), rows, pixels, 16, plans, seed=3, progress=done.append
    )
    for expected, view in zip(stored.views, bank.views, strict=True):
        assert torch.equal(expected, view)
    assert decoded == Counter(dict.fromkeys(range(1, 70), 1)), "once for all views"
    assert done[-1] == 5 * 69
    assert done == sorted(done)


def test_ranks_make_a_bank_of_streamed_images_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.heads.bank._SPAN", 64)
    images = tiny.smooth_images(200, 8)
    plans = bank_plans(3, 0.875, Strong(), 0.35)

    def made() -> tuple[tuple[torch.Tensor, ...], int]:
        decoded = Counter[int]()

        def squash(row: int) -> tuple[np.ndarray, float, str]:
            decoded[row] += 1
            return images[row], 1.0, ""

        found = StreamedImages(squash, 200, 8, print)
        rows = np.arange(200)
        data = Canvases(dataclasses.replace(tiny.store(images), images=found), rows, tiny.CPU)
        return make_bank(data, rows, pixels, 8, plans, seed=3).views, decoded.total()

    expected = make_bank(tiny.canvases(images), np.arange(200), pixels, 8, plans, seed=3).views
    total = 0
    for views, count in on_ranks(2, made):
        assert all(torch.equal(a, b) for a, b in zip(views, expected, strict=True))
        total += count
    assert total == 200, "each image is decoded by one rank, once"


# --- known silent bugs


def test_ranks_count_every_image_once() -> None:
    images = tiny.smooth_images(7)
    model = tiny.classifier().eval().requires_grad_(False)

    def seen() -> Tensor:
        view = Strong()
        return look(tiny.canvases(images), np.arange(7), view, model, 32, batch=2)

    alone = seen()
    for found in on_ranks(3, seen):
        assert found.shape == alone.shape, "images are counted twice or not at all"
        assert torch.equal(found, alone)

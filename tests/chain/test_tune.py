"""The search for the strong view, on images whose right answer is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from tutelage.augment import Strong, Weak
from tutelage.chain import plan, tune, types
from tutelage.chain.tune import DEFAULT, ViewCandidate, ViewSample
from tutelage.config import TransferConfig
from tutelage.models.joint import Columns
from tutelage.stats.coverage import LEAST_POOL, Figures, measure
from tutelage.stats.intervals import Interval

GRID = (
    {"augment": "none"},
    {"num_ops": 1, "magnitude": 4},
    {"num_ops": 2, "magnitude": 27},
)


def mean_colour(views: Tensor) -> Tensor:
    return views.mean(dim=(2, 3))


def flat_images(values: np.ndarray) -> np.ndarray:
    """Images uint8 (n, 16, 16, 3) of one colour (n, 3) each, with a little grain."""
    grain = np.random.default_rng(0).integers(-3, 4, (len(values), 16, 16, 3))
    return (values[:, None, None, :] + grain).clip(0, 255).astype(np.uint8)


def sample(labeled: np.ndarray, labels: np.ndarray, pool: np.ndarray, **changes: Any) -> ViewSample:
    images = np.concatenate([flat_images(labeled), flat_images(pool)])
    n = len(labeled)
    made = ViewSample(
        canvases=tiny.canvases(images),
        labeled=np.arange(n),
        labels=labels,
        pool=np.arange(n, len(images)),
        n_classes=2,
        forward=mean_colour,
        size=16,
        crop_pct=1.0,
        seed=0,
    )
    return dataclasses.replace(made, **changes)


def dark_labels(pool_levels: tuple[int, int]) -> ViewSample:
    """Reddish and bluish labelled images of one brightness; a pool of brightness in a range."""
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    level = rng.integers(98, 103, 12)[:, None]
    tint = np.where(labels[:, None] == 0, [[25, 0, -25]], [[-25, 0, 25]])
    pool_level = rng.integers(*pool_levels, 60)[:, None]
    pool_tint = np.where(np.arange(60)[:, None] % 2 == 0, [[25, 0, -25]], [[-25, 0, 25]])
    return sample(level + tint, labels, pool_level * (1 + pool_tint / 100))


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of seconds."""
    monkeypatch.setattr(tune, "TUNE_GRID", GRID)
    monkeypatch.setattr(tune, "TUNE_CROPS", (0.8,))
    monkeypatch.setattr(tune, "TUNE_REFINED", 1)


# --- the search


@pytest.mark.usefixtures("small_grid")
def test_a_pool_of_many_brightnesses_is_covered_by_strong_colour_and_a_narrow_one_is_not() -> None:
    wide, narrow = tune.tune(dark_labels((40, 160))), tune.tune(dark_labels((97, 104)))
    by_name = {one.name: one for one in wide.candidates}
    bare = by_name["no operations, crop from 0.35"].figures["coverage"].value
    assert by_name["RandAugment 2/27, crop from 0.35"].figures["coverage"].value > bare + 0.2
    assert wide.chosen["augment"] == "randaugment"
    strong = {one.name: one for one in narrow.candidates}["RandAugment 2/27, crop from 0.35"]
    assert strong.lost
    assert narrow.chosen["magnitude"] != 27


@pytest.mark.usefixtures("small_grid")
def test_the_search_repeats_and_another_seed_draws_anew() -> None:
    data = dark_labels((40, 160))
    first, again = tune.tune(data), tune.tune(data)
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(again, seconds=0)
    other = tune.tune(dataclasses.replace(data, seed=1))
    assert other.candidates[0].figures != first.candidates[0].figures


@pytest.mark.usefixtures("small_grid")
def test_every_candidate_is_told_and_the_default_comes_first() -> None:
    counted: list[int] = []
    data = dark_labels((40, 160))
    done = tune.tune(data, progress=counted.append)
    assert done.candidates[0].settings == DEFAULT
    assert done.candidates[0].gain == Interval(0, 0, 0)
    assert counted == list(range(1, len(done.candidates) + 1))
    names = [one.name for one in done.candidates]
    assert len(set(names)) == len(names) >= 5
    assert done.looks == 60 + 12 * (1 + plan.TUNE_VIEWS * (1 + len(names)))
    checked = [one for one in done.candidates if one.log_loss is not None]
    assert checked[0] is done.candidates[0]
    assert 2 <= len(checked) <= 1 + plan.TUNE_FINALISTS
    assert all(not one.lost for one in checked[1:])
    assert any(one.settings == done.chosen for one in done.candidates)
    told = done.to_dict()
    assert [row["name"] for row in told["candidates"]] == names
    assert set(told["candidates"][0]["figures"]["coverage"]) == {"value", "low", "high"}


def test_without_a_pool_or_labels_to_hold_out_the_default_is_kept_and_the_reason_said() -> None:
    data = dark_labels((40, 160))
    for changes, words in (
        ({"pool": data.pool[:3]}, f"needs {LEAST_POOL} unlabelled images to be measured against, "
         "found 3"),
        ({"labeled": data.labeled[:2], "labels": data.labels[:2]}, "needs 4 labelled images"),
        ({"labels": np.arange(12), "n_classes": 12}, "every class has a single label"),
    ):  # fmt: skip
        kept = tune.tune(dataclasses.replace(data, **changes))
        assert kept.chosen == DEFAULT
        assert kept.candidates == ()
        assert words in kept.reason
        assert kept.reason.startswith("kept the default RandAugment 2/9, crop from 0.35: ")


def test_the_grid_and_the_defaults_are_settings_that_a_run_takes() -> None:
    assert tune.settings_of(TransferConfig()) == DEFAULT
    for changes in plan.TUNE_GRID:
        assert isinstance(tune.policy_of({**DEFAULT, **changes}), Strong | Weak)
    names = {tune.policy_name(**{**DEFAULT, **changes}) for changes in plan.TUNE_GRID}
    most = {tune.policy_name(**DEFAULT), *names}
    assert len(most) + plan.TUNE_REFINED * len(plan.TUNE_CROPS) == plan.TUNE_MOST


# --- choosing


def candidate(name: int, gain: float, worse: float | None, *, lost: tuple[str, ...] = ()) -> Any:
    figures = {"coverage": Interval(0.5 + gain, 0, 1)}
    loss = None if worse is None else 0.4 + worse
    settings = {**DEFAULT, "magnitude": name}
    change = None if worse is None else Interval(worse, worse - 0.1, worse + 0.1)
    return ViewCandidate(
        settings, figures, Interval(gain, gain - 0.05, gain + 0.05), lost, loss, change
    )


def test_the_most_coverage_among_those_whose_labels_stay_likely() -> None:
    default = candidate(9, 0.0, 0.0)
    rows = [default, candidate(20, 0.3, 0.01), candidate(14, 0.2, -0.01), candidate(4, 0.1, -0.2)]
    chosen, reason = tune.choose_view(rows)
    assert chosen["magnitude"] == 14
    assert "RandAugment 2/14, crop from 0.35 covers 70% of the pool instead of the" in reason
    assert "(more than chance explains)" in reason
    _, reason = tune.choose_view([default, candidate(14, 0.04, -0.01)])
    assert "(which may be chance)" in reason


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([candidate(20, 0.3, 0.01)], "but held-out labels are less likely"),
        ([candidate(20, 0.0, -0.1)], "no candidate that is as close covers more"),
        (
            [candidate(20, 0.3, None, lost=("density",))],
            "no other candidate is as close to the pool",
        ),
        ([], "no other candidate"),
    ],
)
def test_the_default_is_kept_where_nothing_better_is_sure(others: list[Any], words: str) -> None:
    chosen, reason = tune.choose_view([candidate(9, 0.0, 0.0), *others])
    assert chosen == {**DEFAULT, "magnitude": 9}
    assert words in reason


def figures(**values: float) -> Figures:
    intervals = {name: Interval(v, v - 0.1, v + 0.1) for name, v in values.items()}
    halves = {name: v + 0.1 * torch.tensor([-1.0, 0.0, 1.0]) for name, v in values.items()}
    return Figures(intervals, halves, 2.0, 4)


def test_fidelity_is_held_down_to_the_weak_view_less_half_its_interval() -> None:
    bounds = tune.fidelity_bounds(figures(density=1.0, precision=0.8, distance=0.1))
    assert bounds == pytest.approx({"density": 0.8, "precision": 0.6, "distance": 0.3})
    assert tune.lost_fidelity(figures(density=0.81, precision=0.61, distance=0.29), bounds) == ()
    worse = tune.lost_fidelity(figures(density=0.79, precision=0.9, distance=0.31), bounds)
    assert worse == ("density", "distance")


def test_gains_are_paired_and_wider_than_one_by_one() -> None:
    pool = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    clouds = {
        str(number): torch.randn(4, 12, 3, generator=torch.Generator().manual_seed(number))
        for number in range(8)
    }
    measured = measure(pool, clouds, seed=0)
    gains = tune.joint_gains(measured, "0")
    assert gains["0"] == Interval(0, 0, 0)
    for name in list(clouds)[1:]:
        alone = measured[name].minus(measured["0"], "coverage")
        assert gains[name].value == pytest.approx(alone.value)
        ratio = (gains[name].high - gains[name].low) / (alone.high - alone.low)
        assert 1.15 < ratio < 1.7  # Bonferroni for 7 comparisons: 1.37


# --- folds


def test_view_losses_are_of_labels_that_the_head_did_not_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = dark_labels((40, 160))
    clean = data.clean(data.labeled)
    seen: list[Tensor] = []
    fit = tune.fit_head

    def watched(features: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(features)
        return fit(features, *rest, **more)

    monkeypatch.setattr(tune, "fit_head", watched)
    metrics = list(
        tune.feature_metrics(clean, Columns(slice(clean.shape[1]), slice(0)), None).values()
    )
    losses = tune.view_losses(data, clean, clean[None].repeat(2, 1, 1), metrics)
    assert losses.shape == (12,)
    assert losses.mean() < 0.1
    folds = types.make_folds(data.labels, 0, 4, 0)[1:]
    for features, fold in zip(seen, list(folds) * 2, strict=True):
        held_out = clean[torch.from_numpy(fold.judges)]
        assert len(features) == 2 * (12 - len(held_out))
        assert float(torch.cdist(features, held_out).min()) > 0
    noise = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    assert tune.view_losses(data, clean, noise, metrics).mean() > 0.4


def test_a_sample_takes_turns_among_the_classes_and_repeats() -> None:
    labels = np.array([0] * 30 + [1] * 4 + [2] * 6)
    rows = np.arange(100, 140)
    drawn = tune.draw_sample(rows, labels, np.arange(50), most_labeled=12, most_pool=20, seed=3)
    kept, theirs, pool = drawn
    assert np.bincount(theirs).tolist() == [4, 4, 4]
    assert (labels[kept - 100] == theirs).all()
    assert len(set(pool.tolist())) == 20
    again = tune.draw_sample(rows, labels, np.arange(50), most_labeled=12, most_pool=20, seed=3)
    assert all((a == b).all() for a, b in zip(drawn, again, strict=True))
    whole = tune.draw_sample(rows, labels, np.arange(5), most_labeled=99, most_pool=99, seed=0)
    assert whole[0].tolist() == rows.tolist()
    assert whole[2].tolist() == list(range(5))


def test_views_of_policies_share_their_draws() -> None:
    data = dark_labels((40, 160))
    views = data.views(Weak(), 3)
    assert views.shape == (3, 12, 3)
    assert torch.equal(views[:2], data.views(Weak(), 2))
    assert not torch.equal(views[0], views[1])

import dataclasses

import numpy as np
import pytest

from tutelage.stats.pseudo_labels import (
    align_to_prior,
    confusion_rates,
    estimate_prior,
    revise,
    select,
    sharpen,
)
from tutelage.stats.unknown import Detection

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.array([2.0, 1.0, 0.5]), 200)


def test_full_alignment_makes_the_mean_belief_the_prior() -> None:
    prior = np.array([0.2, 0.3, 0.5])
    found = align_to_prior(PROBS, prior)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found.mean(axis=0), prior, atol=0.01)
    assert np.abs(PROBS.mean(axis=0) - prior).max() > 0.2


def test_alignment_strength_moves_between_the_two() -> None:
    prior = np.array([0.2, 0.3, 0.5])
    assert align_to_prior(PROBS, prior, strength=0.0) is PROBS
    means = [align_to_prior(PROBS, prior, strength=s).mean(axis=0)[2] for s in (0.0, 0.3, 0.7, 1.0)]
    assert means == sorted(means)
    np.testing.assert_allclose(align_to_prior(PROBS, PROBS.mean(axis=0)), PROBS, atol=1e-12)
    geometric = np.sqrt(PROBS.mean(axis=0) * prior)
    half = align_to_prior(PROBS, prior, strength=0.5).mean(axis=0)
    np.testing.assert_allclose(half, geometric / geometric.sum(), atol=0.01)


def test_alignment_of_nothing_and_of_an_impossible_class() -> None:
    assert align_to_prior(np.zeros((0, 3)), np.full(3, 1 / 3)).shape == (0, 3)
    sure = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert np.isfinite(align_to_prior(sure, np.array([0.5, 0.5]))).all()


def test_selection_takes_every_image_and_its_likeliest_class() -> None:
    found = select(PROBS)
    assert np.array_equal(found.labels, PROBS.argmax(axis=1))
    np.testing.assert_array_equal(found.confidence, PROBS.max(axis=1))
    assert found.accepted.all()
    assert not found.outside.any()
    assert len(select(np.zeros((0, 3))).accepted) == 0


def test_targets_are_one_hot_the_beliefs_or_between() -> None:
    found = select(PROBS)
    assert found.targets("soft") is PROBS
    hard = found.targets("hard")
    assert np.array_equal(hard.argmax(axis=1), found.labels)
    assert set(np.unique(hard)) == {0.0, 1.0}
    assert np.array_equal(found.targets("sharpened"), sharpen(PROBS))


def test_sharpening_by_hand() -> None:
    beliefs = np.array([[0.6, 0.3, 0.1], [0.5, 0.5, 0.0]])
    expected = [[0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46], [0.5, 0.5, 0.0]]
    np.testing.assert_allclose(sharpen(beliefs), expected)


def test_revised_labels_are_the_mean_of_both_looks() -> None:
    first = dataclasses.replace(
        select(np.array([[0.8, 0.2], [0.6, 0.4], [0.4, 0.6], [0.3, 0.7]])),
        accepted=np.array([True, False, False, True]),
    )
    found = revise(first, np.array([[0.5, 0.5], [0.6, 0.4]]))  # on average as before
    np.testing.assert_allclose(found.probs, [[0.65, 0.35], [0.6, 0.4], [0.4, 0.6], [0.45, 0.55]])
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(found.accepted, first.accepted)
    turned = revise(first, np.array([[0.1, 0.9], [1.0, 0.0]]))
    assert turned.labels.tolist() == [1, 0, 1, 0]
    assert turned.confidence.tolist() == pytest.approx([0.55, 0.6, 0.6, 0.65])


def test_a_revision_keeps_the_frequencies_and_who_is_out_of_class() -> None:
    detection = Detection(np.where(np.arange(200) < 20, 0.9, 0.1), 0.5)
    first = select(PROBS, detection)
    found = revise(first, RNG.dirichlet(np.ones(3), 180))
    assert np.array_equal(found.outside, np.arange(200) < 20)
    assert np.array_equal(found.accepted, ~found.outside)
    inside = found.probs[20:].mean(axis=0)
    np.testing.assert_allclose(inside, PROBS[20:].mean(axis=0), atol=0.01)


def test_some_of_the_accepted_are_drawn_at_random_and_the_rest_say_why_not() -> None:
    first = select(PROBS)
    few, others = first.some(10, seed=0), first.some(10, seed=1)
    assert few.accepted.sum() == 10
    assert not (few.accepted & ~first.accepted).any()
    assert not np.array_equal(few.accepted, others.accepted)
    assert np.array_equal(few.accepted, first.some(10, seed=0).accepted)
    assert np.array_equal(first.some(200, seed=0).accepted, first.accepted)
    words = few.reasons()
    assert words.count("accepted") == 10
    assert words.count("no time to learn from it") == 190


def test_images_out_of_class_are_never_accepted() -> None:
    probs = np.array([[0.99, 0.01], [0.6, 0.4], [0.9, 0.1], [0.3, 0.7]])
    detection = Detection(np.array([1.23, 0.5, 0.98, 0.1]), limit=0.98)
    found = select(probs, detection)
    assert found.outside.tolist() == [True, False, False, False]
    assert found.accepted.tolist() == [False, True, True, True]
    far = "out of class: distance 1.230 above 0.980"
    assert found.reasons() == [far, "accepted", "accepted", "accepted"]
    few = found.some(1, seed=0).reasons()
    assert sorted(few) == ["accepted", "no time to learn from it", "no time to learn from it", far]


def test_confusion_columns_are_mean_beliefs_with_one_uniform_one_added() -> None:
    probs = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    found = confusion_rates(probs, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(found[:, 0], [(1.4 + 0.5) / 3, (0.6 + 0.5) / 3])
    np.testing.assert_allclose(found[:, 1], [(0.1 + 0.5) / 2, (0.9 + 0.5) / 2])
    np.testing.assert_allclose(confusion_rates(probs[:0], np.zeros(0, int), 2), 0.5)


def test_without_evidence_the_prior_is_that_of_the_labels_with_one_image_added() -> None:
    rates = np.full((3, 3), 1 / 3)  # a teacher that tells nothing apart
    found = estimate_prior(np.full(3, 1 / 3), rates, np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(found, [4 / 6, 2 / 6, 0])


def test_many_labels_find_the_prior_and_few_hold_it_near_their_own_frequencies() -> None:
    rates, true = np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([0.2, 0.8])
    few, many = (estimate_prior(rates @ true, rates, np.repeat([0, 1], n)) for n in (1, 500))
    assert few.sum() == pytest.approx(1)
    assert abs(few[0] - 0.5) < 0.15
    np.testing.assert_allclose(many, true, atol=0.02)


def test_a_class_without_labels_is_not_expected_in_the_pool() -> None:
    labels = np.array([0, 0, 0, 2])
    probs = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.2, 0.6]])
    rates = confusion_rates(probs, np.array([0, 0, 2]), 3)
    prior = estimate_prior(np.array([0.5, 0.2, 0.3]), rates, labels)
    assert prior[1] == 0
    assert prior.sum() == pytest.approx(1)
    aligned = align_to_prior(probs, prior, strength=0.5)
    assert np.isfinite(aligned).all()
    assert (aligned[:, 1] == 0).all()

import numpy as np
import pytest
import torch

from tutelage.heads.probe import fit_head, plain_metric
from tutelage.stats import clusters
from tutelage.stats.calibrate import softmax
from tutelage.stats.clusters import agreement, fit_clusters
from tutelage.stats.pseudo_labels import align_to_prior


def blobs(n: int = 200, d: int = 20) -> tuple[torch.Tensor, np.ndarray]:
    """Two clusters that a third of all directions tell apart, three images of four in the first."""
    rng = np.random.default_rng(0)
    truth = (np.arange(n) % 4 == 3).astype(int)
    offsets = np.zeros((2, d))
    offsets[1, : d // 3] = 2.5
    return torch.from_numpy(offsets[truth] + rng.normal(size=(n, d))).float(), truth


def unlucky(features: torch.Tensor, truth: np.ndarray) -> np.ndarray:
    """Of each class the two images that look most like the other."""
    side = features[:, :6].sum(dim=1).numpy()
    zero, one = (np.flatnonzero(truth == k) for k in (0, 1))
    return np.concatenate([zero[np.argsort(-side[zero])[:2]], one[np.argsort(side[one])[:2]]])


def test_clusters_are_right_where_few_labels_misplace_the_boundary() -> None:
    features, truth = blobs()
    labeled = unlucky(features, truth)
    pool = np.setdiff1d(np.arange(len(truth)), labeled)
    metric = plain_metric(features)
    targets = torch.eye(2)[torch.from_numpy(truth[labeled])]
    head = fit_head(features[labeled], targets, torch.ones(4), metric, strength=10.0)
    by_head = (head(features[pool]).argmax(dim=1).numpy() == truth[pool]).mean()
    found = fit_clusters(features[labeled], truth[labeled], features[pool], np.array([0.75, 0.25]))
    by_clusters = (found(features[pool]).argmax(axis=1) == truth[pool]).mean()
    assert by_clusters > 0.95 > by_head + 0.1


def test_one_step_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "STEPS", 1)
    monkeypatch.setattr(clusters, "RATE", 0.5)
    labeled = torch.tensor([[3.0, 0.0], [-3.0, 0.0]])
    pool = torch.tensor([[0.0, 2.0], [0.0, -2.0]])  # all means are 0, and so is that of all
    found = fit_clusters(labeled, np.array([0, 1]), pool, np.array([0.5, 0.5]))
    torch.testing.assert_close(found.mean, torch.zeros(2))
    # Both centres begin at (+-1, 0); each pool image is half of both, so the members' means are
    # (+-1, 0) / 2, weighing 1 for the label and 1 for the pool: half of the way is (+-0.75, 0).
    torch.testing.assert_close(found.centers, torch.tensor([[0.75, 0.0], [-0.75, 0.0]]))
    np.testing.assert_allclose(found.bias, [0, 0], atol=1e-6)
    gap = np.diff(found(torch.tensor([[5.0, 0.0]])))[0, 0]
    assert gap == pytest.approx(-clusters.SHARPNESS * (1.75**2 - 0.25**2), rel=1e-5)


def test_the_pool_keeps_the_class_frequencies_it_was_fitted_to() -> None:
    features, truth = blobs()
    prior = np.array([0.6, 0.4])
    found = fit_clusters(features[:8], truth[:8], features[8:], prior)
    beliefs = softmax(found(features[8:]))
    np.testing.assert_allclose(beliefs.mean(axis=0), prior, atol=0.005)
    unbiased = clusters.Clusters(found.mean, found.centers, np.zeros(2))
    aligned = align_to_prior(softmax(unbiased(features[8:])), prior)
    np.testing.assert_allclose(beliefs, aligned, atol=1e-4)


def test_a_class_without_labels_has_no_cluster() -> None:
    features, truth = blobs()
    of_two = fit_clusters(features[:8], truth[:8], features[8:], np.array([0.6, 0.4]))
    three = np.array([0, 2])[truth]  # class 1 is in test alone
    prior = np.array([0.55, 0.1, 0.35])  # smoothed: it takes no class to be impossible
    found = fit_clusters(features[:8], three[:8], features[8:], prior)
    logits = found(features[8:])
    assert np.isfinite(logits).all()
    beliefs = softmax(logits)
    assert (beliefs[:, 1] == 0).all()
    np.testing.assert_allclose(beliefs.mean(axis=0)[[0, 2]], [0.55 / 0.9, 0.35 / 0.9], atol=0.005)
    ours, theirs = logits.argmax(axis=1), np.array([0, 2])[of_two(features[8:]).argmax(axis=1)]
    assert agreement(ours, theirs, 3) > 0.95


def test_agreement_by_hand() -> None:
    ours = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    theirs = np.array([0, 0, 1, 0, 1, 1, 1, 1, 1, 1])
    assert agreement(ours, theirs, 2) == pytest.approx((0.8 - 0.58) / (1 - 0.58))
    assert agreement(ours, ours, 2) == 1
    assert agreement(ours, np.zeros(10, dtype=int), 2) == pytest.approx(0)
    assert agreement(1 - ours, ours, 2) < 0
    assert agreement(np.zeros(3, dtype=int), np.zeros(3, dtype=int), 2) == 1

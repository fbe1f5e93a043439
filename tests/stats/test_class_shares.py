import numpy as np

from tutelage.stats.shift import class_shares

CONFUSION = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]])  # rows: true classes
BEFORE, NOW = np.array([1, 1, 1]) / 3, np.array([0.1, 0.2, 0.7])


def images(rng: np.random.Generator, shares: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """True classes (n,), and what a model of ``CONFUSION`` calls them."""
    labels = rng.choice(3, n, p=shares)
    return labels, (rng.random((n, 1)) > CONFUSION[labels].cumsum(axis=1)).sum(axis=1)


def test_intervals_cover_the_true_shares_of_a_shifted_batch() -> None:
    rng = np.random.default_rng(0)
    covered, errors = [], []
    for seed in range(40):
        labels, predicted = images(rng, BEFORE, 600)
        _, batch = images(rng, NOW, 400)
        found = class_shares(labels, predicted, batch, 3, seed=seed)
        assert np.isclose(found.values.sum(), 1)
        assert (found.values >= 0).all()
        covered.append((found.low <= NOW) & (found.high >= NOW))
        called = np.bincount(batch, minlength=3) / 400
        errors.append([np.abs(found.values - NOW), np.abs(called - NOW)])
    assert 0.9 <= np.mean(covered) <= 0.99
    ours, naive = np.mean(errors, axis=0)
    assert ours.sum() < naive.sum()


def test_a_perfect_model_gives_the_counts_but_few_labels_are_no_certainty() -> None:
    labels = np.repeat([0, 1], 5)
    batch = np.repeat([0, 1], [30, 10])
    found = class_shares(labels, labels, batch, 2)
    np.testing.assert_allclose(found.values, [0.75, 0.25])
    many = class_shares(np.repeat([0, 1], 500), np.repeat([0, 1], 500), batch, 2)
    assert found.high[0] - found.low[0] > many.high[0] - many.low[0] > 0.1


def test_a_class_that_was_never_called_right_is_no_failure() -> None:
    labels, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1])
    found = class_shares(labels, predicted, np.array([0, 0, 1, 1]), 3)
    np.testing.assert_allclose(found.values, [0.5, 0.25, 0.25])  # 1 and 2 cannot be told apart

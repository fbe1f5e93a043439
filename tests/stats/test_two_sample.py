import numpy as np
import pytest

from tutelage.stats.two_sample import (
    a_share_moves,
    anderson_darling,
    energy_distance,
    share_rises,
    two_sample_tests,
)

N, M = 60, 40


def alarms(shift: float, looks: int) -> np.ndarray:
    """Which tests (looks, T) of N images and M others, moved by ``shift``, raise an alarm at 5%."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(looks):
        points = rng.standard_normal((N + M, 8))
        points[N:] += shift
        statistics = {
            "points": energy_distance(points),
            "values": anderson_darling(points[:, 0]),
            "share": share_rises(points[:, 1] > 1),
            "counts": a_share_moves((points[:, 2] > 0).astype(int) + (points[:, 3] > 0)),
        }
        tests = two_sample_tests(statistics, N, M, divisions=99, seed=seed)
        found.append([test.adjusted <= 0.05 for test in tests.values()])
    return np.array(found)


def test_undisturbed_batches_raise_any_alarm_at_most_at_the_rate() -> None:
    rate = alarms(0.0, 400).any(axis=1).mean()
    assert 0.02 < rate < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 400)


def test_every_statistic_sees_a_shift() -> None:
    assert (alarms(1.0, 20).mean(axis=0) > 0.8).all()


def test_p_values_by_hand() -> None:
    """Of the 6 divisions of 4 images into two pairs, one is as extreme as the true one."""
    flags = np.array([False, False, True, True])
    found = two_sample_tests({"share": share_rises(flags)}, 2, 2, divisions=20_000)
    assert found["share"].p == pytest.approx(1 / 6, abs=0.01)
    assert found["share"].adjusted == found["share"].p  # alone, nothing is adjusted


def test_a_second_equal_statistic_costs_nothing_and_an_idle_one_neither() -> None:
    values = np.random.default_rng(0).standard_normal(N + M)
    values[N:] += 0.4
    one = anderson_darling(values)
    still = share_rises(np.zeros(N + M, dtype=bool))
    alone = two_sample_tests({"a": one}, N, M)["a"]
    found = two_sample_tests({"a": one, "b": one, "still": still}, N, M)
    assert found["a"].adjusted == found["b"].adjusted == alone.p == found["a"].p
    assert found["still"] == (1.0, 1.0)


def test_anderson_darling_against_its_formula() -> None:
    """Equation 6 of Scholz and Stephens (1987), with ties; its factor is the same everywhere."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 12, N + M).astype(float)
    found = []
    by_hand = []
    for _ in range(2):
        first, second = values[:N], values[N:]
        member = np.repeat(np.float32([0, 1]), [N, M])[:, None]
        found.append(anderson_darling(values)(member)[0])
        total = 0.0
        for value in np.unique(values)[:-1]:
            below = (values <= value).sum()
            gap = (N + M) * (first <= value).sum() - N * below
            total += (values == value).sum() * gap**2 / (below * (N + M - below))
        assert len(second) == M
        by_hand.append(total)
        values = rng.permutation(values)
    assert found[0] / found[1] == pytest.approx(by_hand[0] / by_hand[1], rel=1e-4)


def test_energy_distance_against_its_formula() -> None:
    points = np.random.default_rng(0).standard_normal((N + M, 3))
    member = np.repeat(np.float32([0, 1]), [N, M])[:, None]
    apart = np.sqrt(np.square(points[:, None] - points[None]).sum(axis=2))
    expected = 2 * apart[:N, N:].mean() - apart[:N, :N].mean() - apart[N:, N:].mean()
    assert energy_distance(points)(member)[0] == pytest.approx(expected, rel=1e-4)


def test_a_share_that_moves_by_hand() -> None:
    """Of 3 a and 1 b, 0 and 1 are in the batch of 1: b's share is 1/4, its variance 3/16."""
    member = np.array([[0, 1], [0, 0], [0, 0], [1, 0]], dtype=np.float32)
    found = a_share_moves(np.array([0, 0, 0, 1]))(member)
    np.testing.assert_allclose(found, np.array([3 / 4, 1 / 4]) / np.sqrt(3 / 16), rtol=1e-6)
    assert (a_share_moves(np.zeros(4, int))(member) == 0).all()

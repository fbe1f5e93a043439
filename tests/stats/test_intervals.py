import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.stats.intervals import paired_change, t_interval, t_quantile, wilson


def test_wilson_agrees_with_the_published_worked_value_and_holds_at_the_ends() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263.
    assert wilson(81, 263) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=1e-4)
    low = 10 / (10 + 1.959964**2)
    assert wilson(10, 10) == pytest.approx((1.0, low, 1.0))
    assert wilson(0, 10) == pytest.approx((0.0, 0.0, 1 - low))


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (19, 2.0930), (30, 2.0423)],
)
def test_t_quantiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, abs=5e-5)


def test_t_interval_by_hand() -> None:
    # mean 2, standard deviation sqrt((1 + 0 + 1) / 2) = 1, standard error 1 / sqrt(3)
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    assert t_interval([0.5] * 5) == (0.5, 0.5, 0.5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_value_and_stays_a_fraction(case: tuple[int, int]) -> None:
    value, low, high = wilson(*case)
    assert 0 <= low <= value <= high <= 1
    assert high > low


def test_paired_change_by_hand() -> None:
    # up = 11/102, down = 3/102: difference 8/102, variance (14/102 - (8/102)^2) / 102
    value, low, high = paired_change(10, 2, 100)
    half = 1.959964 * ((14 / 102 - (8 / 102) ** 2) / 102) ** 0.5
    assert value == pytest.approx(0.08)
    assert (low, high) == (pytest.approx(8 / 102 - half), pytest.approx(8 / 102 + half))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_paired_change_turns_round_when_the_models_do(wins: int, losses: int, same: int) -> None:
    n = wins + losses + same + 1
    there, back = paired_change(wins, losses, n), paired_change(losses, wins, n)
    assert there.value == -back.value
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert there.low < there.high


def test_paired_change_covers_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(0)
    up, down, n = 0.15, 0.05, 60
    draws = random.multinomial(n, [up, down, 1 - up - down], size=2000)
    found = [paired_change(int(w), int(lo), n) for w, lo, _ in draws]
    covered = np.mean([change.low <= up - down <= change.high for change in found])
    assert 0.93 <= covered <= 0.985

import time

import pytest

from tutelage.deploy import latency
from tutelage.deploy.latency import latencies


def test_median_and_fifth_percentile_of_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    waits = iter([0.5, 0.5, 0.001, 0.002, 0.003, 0.004, 0.005])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += next(waits)

    monkeypatch.setattr(latency, "WARMUP", 2)
    (result,) = latencies([call], runs=5)
    assert result.p50_ms == pytest.approx(3.0)
    assert result.p05_ms == pytest.approx(1.2)
    assert result.runs == 5


def test_calls_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(latency, "WARMUP", 1)
    results = latencies([lambda: order.append("a"), lambda: order.append("b")], runs=2)
    assert "".join(order) == "ababab"
    assert len(results) == 2

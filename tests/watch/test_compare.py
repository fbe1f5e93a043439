from typing import Any

import numpy as np
import pytest
from watching import reference, seen

from tutelage.watch.compare import TESTED, compare
from tutelage.watch.look import MEASURES


def look(batch: Any, limit: float | None = 1.64, **options: Any) -> dict[str, Any]:
    return compare(reference(**options), batch, limit, 0.05)


def test_undisturbed_images_raise_no_alarm_and_the_accuracy_is_that_of_the_reference() -> None:
    batch, labels = seen(200)
    found = look(batch)
    assert found["alarms"] == []
    assert [test["name"] for test in found["tests"]] == [
        *("classes", "features", "unknown", "confidence", *MEASURES)
    ]
    accuracy = found["accuracy"]
    assert accuracy["believed"]
    assert accuracy["why"] == []
    assert accuracy["labels"] == 300
    right = (batch["predicted"] == labels).mean()
    assert accuracy["low"] <= right <= accuracy["high"]
    for k, row in enumerate(found["classes"]):
        assert row["low"] <= (labels == k).mean() <= row["high"]


def changes() -> dict[str, dict[str, Any]]:
    """For each test what moves it, and it alone."""
    plain, _ = seen(200)
    rng = np.random.default_rng(5)
    pixels = {name: plain["pixels"] + 1.2 * np.eye(6)[i] for i, name in enumerate(MEASURES)}
    return {
        "classes": {"predicted": rng.choice(3, 200, p=[0.7, 0.15, 0.15])},
        "features": {"features": plain["features"] + 0.5},
        "unknown": {"energy": plain["energy"] + 1},
        "confidence": {"confidence": plain["confidence"] - 0.2},
        **{name: {"pixels": values} for name, values in pixels.items()},
    }


@pytest.mark.parametrize("name", changes())
def test_each_change_raises_its_own_alarm(name: str) -> None:
    batch, _ = seen(200, **changes()[name])
    found = look(batch)
    assert found["alarms"] == [name]
    doubted = name not in ("classes", "confidence")
    assert found["accuracy"]["believed"] is not doubted
    assert bool(found["accuracy"]["why"]) is doubted


def test_what_is_better_than_before_is_no_alarm() -> None:
    plain, _ = seen(200)
    batch, _ = seen(200, energy=plain["energy"] - 1, confidence=1)
    assert look(batch)["alarms"] == []


def test_without_a_threshold_the_reference_says_what_is_unknown() -> None:
    plain, _ = seen(200)
    batch, _ = seen(200, energy=plain["energy"] + 1)
    found = look(batch, limit=None)
    assert found["alarms"] == ["unknown"]
    (share,) = (t["reference"] for t in found["tests"] if t["name"] == "unknown")
    assert share == pytest.approx(0.05)


def test_images_that_the_model_learned_from_say_nothing_of_its_sureness() -> None:
    batch, _ = seen(200, confidence=0.4)
    found = look(batch, learned=True, labelled=0)
    assert "confidence" not in [test["name"] for test in found["tests"]]
    assert found["accuracy"]["value"] is None
    assert "learned from" in found["accuracy"]["why"][0]
    assert all(row["share"] is None for row in found["classes"])


def test_few_labels_give_no_accuracy_and_a_class_without_them_no_shares() -> None:
    batch, _ = seen(200)
    found = look(batch, labelled=10)
    assert found["accuracy"]["why"] == ["the reference has 10 labels; an estimate takes 50 or more"]
    row = found["classes"][0]
    assert (row["class"], row["share"]) == ("a", None)
    assert row["called"] == (batch["predicted"] == 0).mean()


def test_of_a_large_batch_a_part_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TESTED == 2000
    monkeypatch.setattr("tutelage.watch.compare.TESTED", 40)
    sizes: list[int] = []

    def tests(statistics: Any, n: int, m: int) -> dict[str, Any]:
        sizes.append(m)
        return {}

    monkeypatch.setattr("tutelage.watch.compare.two_sample_tests", tests)
    look(seen(100)[0])
    assert sizes == [40]

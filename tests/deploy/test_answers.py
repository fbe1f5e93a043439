from __future__ import annotations

import threading

import pytest

from tutelage.data.decode import UnreadableImage
from tutelage.deploy import answers


def test_images_are_worked_on_side_by_side_and_come_back_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "cores", lambda: 2)
    monkeypatch.setattr(answers, "IN_FLIGHT", 4)
    both = threading.Barrier(2, timeout=20)
    turn = threading.Event()

    def work(item: int) -> int:
        if item < 2:
            both.wait()  # passes only when two threads are here
            if item == 0:
                assert turn.wait(20)  # the second is done before the first
            turn.set()
        return 10 * item

    assert list(answers.each_image(work, range(9))) == [10 * item for item in range(9)]


def test_what_cannot_be_read_is_in_its_place_and_other_errors_are_raised() -> None:
    def work(item: str) -> str:
        if item == "torn":
            raise UnreadableImage("is damaged")
        if item == "gone":
            raise FileNotFoundError(item)
        if item == "bug":
            raise KeyError(item)
        return item

    found = list(answers.each_image(work, ["a", "torn", "b", "gone"]))
    assert found[::2] == ["a", "b"]
    assert [str(error) for error in found[1::2]] == ["is damaged", "gone"]
    with pytest.raises(KeyError):
        list(answers.each_image(work, ["a", "bug"]))
    assert list(answers.each_image(work, [])) == []

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings
from processes import on_ranks
from torch import distributed

from tutelage.system.errors import TutelageError
from tutelage.system.ranks import (
    Ranks,
    agreed,
    alone,
    any_of,
    by_lead,
    current,
    is_lead,
    joined,
    lead_first,
    wait,
)
from tutelage.training.loader import Loader


def test_shares_are_the_whole_in_order() -> None:
    for n, world in ((7, 3), (2, 4), (0, 2), (9, 1)):
        parts = [list(range(n))[Ranks(rank, world).share(n)] for rank in range(world)]
        assert [i for part in parts for i in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_asked_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as ranks:
        assert ranks == Ranks(0, 1)
        wait()
        assert agreed({"a": 1}) == {"a": 1}
        assert by_lead(lambda: 5) == 5
        assert lead_first(lambda: 6) == 6
        assert is_lead()
        assert [any_of(flag) for flag in (False, True)] == [False, True]


def test_ranks_agree_on_what_the_lead_found() -> None:
    def work() -> tuple[Any, Any, Any]:
        rank = current().rank
        mine = {"rank": rank, "text": "ü" * (5 - rank), "number": 0.1, "none": None}
        calls: list[int] = []
        led = by_lead(lambda: calls.append(rank) or [rank])
        return agreed(mine), led, calls

    for number, (told, led, calls) in enumerate(on_ranks(3, work)):
        assert told == {"rank": 0, "text": "ü" * 5, "number": 0.1, "none": None}
        assert led == [0]
        assert calls == ([0] if number == 0 else [])


def test_a_rank_that_cannot_be_reached_stops_all_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with Gloo's "connectFullMesh failed" on one rank, while the other is connected."""
    connect, failed = distributed.init_process_group, tmp_path / "failed"

    def half_connected(*args: Any, **options: Any) -> None:
        connect(*args, **options)
        if options["rank"] == 1 and not failed.exists():
            failed.touch()
            distributed.destroy_process_group()
            time.sleep(0.5)  # the other must notice by itself
            raise RuntimeError("Gloo connectFullMesh failed")

    monkeypatch.setattr(distributed, "init_process_group", half_connected)
    assert on_ranks(2, lambda: agreed(current().world)) == [2, 2]  # at the second attempt
    assert failed.exists()


def test_one_rank_of_a_machine_fills_the_cache_for_the_others(tmp_path: Path) -> None:
    def work() -> bool:
        def build() -> bool:
            known = (tmp_path / "built").exists()
            (tmp_path / "built").touch()
            return known

        return lead_first(build)

    assert on_ranks(3, work) == [False, True, True]


def test_a_flag_of_one_rank_is_known_to_all() -> None:
    assert on_ranks(3, lambda: any_of(current().rank == 2)) == [True] * 3
    assert on_ranks(2, lambda: any_of(False)) == [False] * 2


@pytest.mark.parametrize("share", [by_lead, lead_first])
def test_an_error_of_the_first_is_told_by_it_alone_and_ends_all(share: Any) -> None:
    def fails() -> None:
        raise TutelageError("no image is readable")

    def work() -> str:
        try:
            share(fails)
        except TutelageError as error:
            return str(error)
        except SystemExit as ending:
            return f"ended with {ending.code}"
        return "went on"

    assert on_ranks(3, work) == ["no image is readable", "ended with 2", "ended with 2"]


def test_alone_each_works_on_the_whole() -> None:
    def work() -> tuple[slice, slice, bool]:
        with alone():
            own = current().share(6)
        return own, current().share(6), is_lead()

    assert on_ranks(2, work) == [
        (slice(0, 6), slice(0, 3), True),
        (slice(0, 6), slice(3, 6), False),
    ]


def test_more_ranks_than_images_in_a_batch_are_refused() -> None:
    def work() -> str:
        loader = trainings.start("supervised")[1]
        few = partial(Loader, loader.canvases, loader.streams[0][0], None, loader.views)
        with pytest.raises(TutelageError, match="3 ranks share batches of 2 images") as refusal:
            few(batch_size=2, labeled_per_batch=1, seed=0)
        return str(refusal.value)

    assert "start no more ranks" in on_ranks(3, work)[0]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_train_as_one_process_does(world: int) -> None:
    """Views, mixing, noise, norms, thresholds, averages: of nine images for two or four ranks."""
    alone = {kind: trainings.trained(kind) for kind in trainings.KINDS}

    def work() -> Any:
        return {kind: trainings.trained(kind) for kind in trainings.KINDS}

    ranks = on_ranks(world, work)
    for kind, (weights, history) in alone.items():
        for found, told in (rank[kind] for rank in ranks):
            for name, value in weights.items():
                torch.testing.assert_close(
                    found[name], value, rtol=1e-6, atol=1e-9, msg=f"{kind}: {name}"
                )
            for ours, theirs in zip(told, history, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-5), kind
        first = [json.dumps(rank[kind][1]) for rank in ranks]
        assert len(set(first)) == 1, f"{kind}: the ranks tell different figures"

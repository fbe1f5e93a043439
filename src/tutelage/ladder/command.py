"""The order of ``tutelage ladder``: the folder claimed, the draws trained, the page written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutelage.chain.clock import in_minutes
from tutelage.config import RunConfig
from tutelage.data.catalog import Catalog
from tutelage.data.runfolder import RunFolder, repeating_line
from tutelage.ladder.cluster import train_on_cluster
from tutelage.ladder.draws import Draw, Ladder, train_draw
from tutelage.ladder.figures import make_page, to_dict
from tutelage.ladder.page import LadderPage, render
from tutelage.ladder.request import FEWEST_SEEDS, check_budgets, check_request
from tutelage.pages.wording import now
from tutelage.report.html import write_page
from tutelage.stats.results import DrawMetrics
from tutelage.system.console import Console
from tutelage.system.engines import Lost, Ray
from tutelage.system.errors import TutelageError
from tutelage.system.progress import Part
from tutelage.system.words import counted, were

PAGE = "ladder.html"
KEPT_S = 60.0  # a draw that took less was there before, and tells nothing of the others


def ladder(
    config: RunConfig,
    opened: tuple[Catalog, str],
    out: Path,
    settings: dict[str, Any],
    *,
    seeds: int,
    arms: Sequence[str] | None,
    curve: Sequence[int] | None,
    hourly_price: float | None,
    cluster: Ray | None,
    quiet: bool,
) -> dict[str, Any]:
    """Train the arms on each draw, write the page; ``tutelage.api.ladder`` has the arguments.

    ``settings`` are those that were given, which make ``config``; ``opened`` is what ``open_data``
    returned.
    """
    wanted = check_request(arms, seeds, config.data.seed)
    catalog, name = opened
    budgets = check_budgets(curve, catalog, config.data.labels_per_class, wanted)
    given = {
        **settings,
        "seeds": seeds,
        "arms": None if arms is None else list(wanted),
        "curve": None if curve is None else list(budgets),
        "hourly_price": hourly_price,
        "engine": None if cluster is None else "ray",
        "address": None if cluster is None else cluster.address,
    }
    line = repeating_line("ladder", name, str(out), given)
    asked = Ladder(catalog, name, out, config, wanted, budgets, seeds)
    done: dict[Draw, DrawMetrics] = {}
    lost: list[str] = []
    content: dict[str, Any] = {}
    with claimed(asked) as folder:
        console = Console(folder.events, quiet=quiet)
        for draw, result in train_draws(asked, cluster, console):
            if isinstance(result, Lost):
                lost.append(f"{draw} (seed {draw.seed}): {result.reason}")
                continue
            done[draw] = result
            if len(done) < FEWEST_SEEDS:
                continue
            known = [done[draw] for draw in asked.draws if draw in done]
            page = make_page(
                known, catalog, config, command=line, created=now(), price=hourly_price
            )
            content = _written(page, folder)
            if len(done) < seeds:
                console.say(f"page of {len(done)} draws so far: {folder.path / PAGE}")
        if content:
            _say_what_was_found(content, folder.path / PAGE, console)
        if lost:
            raise TutelageError(_in_words(lost, seeds, page=bool(content)))
    return content


@contextmanager
def claimed(ladder: Ladder) -> Iterator[RunFolder]:
    """The ladder's folder, kept from other processes; after an error, removed if none began."""
    folder = RunFolder(ladder.out)
    request = {"command": "ladder", "data": os.path.normpath(ladder.data)}
    arms, curve = list(ladder.arms), list(ladder.budgets)
    folder.claim({**request, "arms": arms, "curve": curve, "settings": ladder.config.to_dict()})
    try:
        yield folder
    except TutelageError:
        if not any(ladder.out.glob("seed-*")):
            folder.release()
        raise
    finally:
        folder.unlock()


def train_draws(
    ladder: Ladder, cluster: Ray | None, console: Console
) -> Iterator[tuple[Draw, DrawMetrics | Lost]]:
    """Train the arms on all draws, on a cluster or in turn; each is given as soon as it is done."""
    if cluster is not None:
        yield from train_on_cluster(ladder, cluster, console)
        return
    parts = [str(draw) for draw in ladder.draws]
    console.progress.expect(dict.fromkeys(parts, Part()))
    for draw in ladder.draws:
        began = time.monotonic()
        result = train_draw(ladder, draw, console)
        took = time.monotonic() - began
        if draw.number < ladder.seeds and took > KEPT_S:
            console.progress.expect(dict.fromkeys(parts, Part(took, first=took)))
            _say_what_is_left(console, took, ladder.seeds - draw.number)
        yield draw, result


def _written(page: LadderPage, folder: RunFolder) -> dict[str, Any]:
    """The content of ladder.json, which is written beside the page."""
    content = to_dict(page)
    folder.write_json("ladder.json", content)
    write_page(render(page), folder.path / PAGE)
    return content


def _say_what_was_found(content: dict[str, Any], page: Path, console: Console) -> None:
    for change in content["differences"]:
        mean, low, high = (100 * part for part in (change["mean"], *change["ci95"]))
        console.say(
            f"  {change['arm']:<14} minus {change['minus']:<14} {mean:+5.1f} points "
            f"[{low:+.1f}, {high:+.1f}]  {change['verdict']}"
        )
    console.say(content["summary"])
    console.point("page", page)


def _in_words(lost: Sequence[str], seeds: int, *, page: bool) -> str:
    shown = f"the page is made of the other {seeds - len(lost)}" if page else "there is no page"
    return (
        f"{len(lost)} of {counted(seeds, 'draw')} {were(len(lost))} lost: {'; '.join(lost)}; "
        f"{shown}. Run the same command again to make up for what is missing"
    )


def _say_what_is_left(console: Console, took: float, draws: int) -> None:
    """Say how long the other draws will take."""
    left = in_minutes(took * draws).removeprefix("about ")
    console.say(
        f"this draw took {in_minutes(took)}; {draws} more will take about {left} (fewer --arms or "
        "a shorter --curve take less)"
    )

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
from tutelage.data.runfolder import RunFolder, command_line
from tutelage.ladder.cluster import train_on_cluster
from tutelage.ladder.draws import Ladder, train_draw
from tutelage.ladder.figures import ladder_figures
from tutelage.ladder.page import headline, render, summary
from tutelage.ladder.request import FEWEST_SEEDS, check_budgets, check_request
from tutelage.pages.wording import now, title
from tutelage.stats.results import DrawMetrics
from tutelage.system.console import Console
from tutelage.system.engines import Lost, Ray
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically
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
        "engine": None if cluster is None else "ray",
        "address": None if cluster is None else cluster.address,
    }
    line = command_line("ladder", name, str(out), given)
    asked = Ladder(catalog, name, out, config, wanted, budgets, seeds)
    done: dict[int, DrawMetrics] = {}
    lost: list[str] = []
    content: dict[str, Any] = {}
    heading = title("tutelage ladder", catalog.classes)
    with claimed(asked) as folder:
        console = Console(folder.events, quiet=quiet)
        for draw, result in train_draws(asked, cluster, console):
            if isinstance(result, Lost):
                lost.append(f"draw {draw} (seed {asked.seed(draw)}): {result.reason}")
                continue
            done[draw] = result
            if len(done) < FEWEST_SEEDS:
                continue
            known = [done[draw] for draw in sorted(done)]
            content = ladder_figures(known, config, command=line, created=now())
            content["verdict"] = headline(content)
            content["summary"] = f"{content['verdict']} {summary(content)}"
            folder.write_json("ladder.json", content)
            write_atomically(folder.path / PAGE, render(content, heading))
            if len(done) < seeds:
                console.say(f"page of {len(done)} draws so far: {folder.path / PAGE}")
        if content:
            _say_what_was_found(content, console)
            console.point("page", folder.path / PAGE)
        if lost:
            made = f"the page is made of the other {len(done)}" if content else "there is no page"
            raise TutelageError(
                f"{len(lost)} of {counted(seeds, 'draw')} {were(len(lost))} lost: "
                f"{'; '.join(lost)}; {made}. Run the same command again to make up for what is "
                "missing"
            )
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
) -> Iterator[tuple[int, DrawMetrics | Lost]]:
    """Train the arms on all draws, on a cluster or in turn; each is given as soon as it is done."""
    if cluster is not None:
        yield from train_on_cluster(ladder, cluster, console)
        return
    parts = [f"draw {draw}" for draw in ladder.draws]
    console.progress.expect(dict.fromkeys(parts, Part()))
    for draw in ladder.draws:
        began = time.monotonic()
        result = train_draw(ladder, draw, console)
        took, left = time.monotonic() - began, ladder.seeds - draw
        if left and took > KEPT_S:
            console.progress.expect(dict.fromkeys(parts, Part(took, first=took)))
            others = in_minutes(took * left).removeprefix("about ")
            console.say(
                f"this draw took {in_minutes(took)}; {left} more will take about {others} (fewer "
                "--arms or a shorter --curve take less)"
            )
        yield draw, result


def _say_what_was_found(content: dict[str, Any], console: Console) -> None:
    for change in content["differences"]:
        mean, low, high = (100 * part for part in (change["mean"], *change["ci95"]))
        console.say(
            f"  {change['arm']:<14} minus {change['minus']:<14} {mean:+5.1f} points "
            f"[{low:+.1f}, {high:+.1f}]  {change['verdict']}"
        )
    console.say(content["summary"])

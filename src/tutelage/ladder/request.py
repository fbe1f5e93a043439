"""What a ladder may be asked for. Imports no torch: what it cannot do is refused at once."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.split import check_labels
from tutelage.system.errors import TutelageError

FEWEST_SEEDS = 2  # one draw has no interval
RUNGS = ("scratch", "augment", "probe", "fine-tune", "transfer", "self-train", "student-alone",
         "student")  # fmt: skip
"""From the plainest arm to the whole chain."""
LEFT_OUT = ("no-augmentation", "no-transfer", "no-self-train")
"""The student of the chain without one part; without distillation it is "student-alone"."""
ARMS = (*RUNGS, *LEFT_OUT)
NEED = ("transfer", "self-train")
"""The arms of the curve: without and with the unlabelled images."""
FEWEST_LABELS = 2  # per class, in a default budget
MOST_BUDGETS = 3  # default budgets, besides the user's own
LEAST_STEP = 1.25  # ratio of the next greater number of labels to the user's own


def check_request(arms: Sequence[str] | None, seeds: int, first: int) -> tuple[str, ...]:
    """The arms that were asked for, or all of ``ARMS``, in the ladder's order."""
    wanted = ARMS if arms is None else tuple(arms)
    unknown = sorted(set(wanted) - set(ARMS))
    if unknown or not wanted:
        found = f"no arm called {', '.join(map(repr, unknown))}" if unknown else "no arms given"
        raise TutelageError(f"{found}; --arms takes some of {','.join(ARMS)}")
    if not FEWEST_SEEDS <= seeds <= 2**32 - first:
        raise TutelageError(
            f"--seeds is {seeds}, expected {FEWEST_SEEDS} or more label draws: an interval over "
            "draws needs them (5 or more are worth reading)"
        )
    return tuple(arm for arm in ARMS if arm in wanted)


def check_data(catalog: Catalog) -> None:
    """Refuse data without labelled training images of two classes or labelled test images."""
    check_labels(catalog)
    if not ((catalog.splits == "test") & (catalog.labels >= 0)).any():
        raise no_test(catalog)


def no_test(catalog: Catalog) -> TutelageError:
    """What is said where no test image is labelled and readable."""
    found = ", ".join(sorted(set(catalog.splits.tolist()))) or "none"
    return TutelageError(
        f"a ladder needs labelled test images that can be read, and there are none; the splits "
        f"are: {found}. Put some into test/<class>/ or mark rows of the manifest with split test"
    )


def check_budgets(
    asked: Sequence[int] | None, catalog: Catalog, own: int | None, arms: Sequence[str]
) -> tuple[int, ...]:
    """Labels per class of the curve's points, without the user's own (None takes all labels).

    If nothing was ``asked`` for (None), they are half and a quarter of the user's own number and,
    if there are that many, twice and four times as many. An empty ``asked`` is no curve.
    """
    if asked is None:
        return _usual(catalog, own) if set(NEED) <= set(arms) else ()
    if not asked:
        return ()
    lacking = [arm for arm in NEED if arm not in arms]
    if lacking:
        raise TutelageError(
            f"--curve compares {' with '.join(NEED)}, and --arms leaves out {', '.join(lacking)}; "
            "add them, or give --curve none"
        )
    most = max(_counts(catalog))
    wrong = [budget for budget in asked if not 1 <= budget <= most]
    if wrong:
        raise TutelageError(
            f"--curve has {wrong[0]}; it takes labels per class from 1 to {most}, which is how "
            "many the class with the most labelled training images has"
        )
    return tuple(sorted(set(asked) - {own}))


def _counts(catalog: Catalog) -> list[int]:
    train = catalog.labels[(catalog.splits == "train") & (catalog.labels >= 0)]
    return [int(count) for count in np.bincount(train, minlength=len(catalog.classes))]


def _usual(catalog: Catalog, own: int | None) -> tuple[int, ...]:
    most = int(statistics.median(_counts(catalog)))
    here = most if own is None else min(own, most)
    fewer = {here // 4, here // 2}
    more = {min(2 * here, most), min(4 * here, most)}
    found = {b for b in fewer if b >= FEWEST_LABELS} | {b for b in more if b > LEAST_STEP * here}
    return tuple(sorted(found)[-MOST_BUDGETS:])

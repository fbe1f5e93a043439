"""What a ladder may be asked for. Imports no torch: what it cannot do is refused at once."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.data.catalog import Catalog
from tutelage.data.split import check_labels
from tutelage.system.errors import TutelageError

FEWEST_SEEDS = 2  # one draw has no interval
RUNGS = (
    "scratch",
    "augment",
    "probe",
    "fine-tune",
    "transfer",
    "self-train",
    "student-alone",
    "student",
)
"""From the plainest arm to the whole chain."""
LEFT_OUT = ("no-augmentation", "no-transfer", "no-self-train")
"""The student of the chain without one part; without distillation it is "student-alone"."""
ARMS = (*RUNGS, *LEFT_OUT)


def check_request(arms: Sequence[str] | None, seeds: int, first: int) -> tuple[str, ...]:
    """The arms that were asked for, or all of ``ARMS``, in the ladder's order.

    Raises:
        TutelageError: an unknown arm, none at all, or too few or too many seeds.
    """
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
    """Refuse data without labelled training images of two classes, or without labelled test images.

    Raises:
        TutelageError: so it is.
    """
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

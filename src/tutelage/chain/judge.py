"""Whether a stage is kept: its held-out answers are compared with its predecessor's."""

from __future__ import annotations

from tutelage.chain.types import Outcome, Task
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Comparison, compare


def judge(task: Task, before: Outcome, after: Outcome) -> Comparison:
    """Compare two outcomes' calibrated answers to the images that both were judged on."""
    both = before.beliefs.known & after.beliefs.known
    was, now = (
        softmax(outcome.beliefs.judged[both], outcome.model.spec.temperature)
        for outcome in (before, after)
    )
    # With a val split there are no folds: the model itself is judged.
    shortened = not after.frozen and len(task.folds) > 1
    return compare(was, now, task.judged_labels[both], shortened=shortened)

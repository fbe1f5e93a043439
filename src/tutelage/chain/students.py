"""Several students of one teacher, of different cost: distilled in turn, one chosen, all tested.

The choice is made on images that none of them learned from, and never on test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tutelage.chain import pipeline, student, trunk
from tutelage.chain.pipeline import Finished, Pipeline
from tutelage.chain.runs import Run
from tutelage.chain.stages import Outcome
from tutelage.models.classifier import Classifier
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import metrics
from tutelage.training.loader import Rows

HELD_OUT_SHARE = 0.1  # of the pool, on which students are compared
HELD_OUT = (50, 500)  # least and most images of it; but no more than a quarter of the pool


def student_stage(
    chain: Pipeline, teacher: Classifier, others: Sequence[Classifier] = ()
) -> Finished:
    """Distil the run's student, or the best of several, from ``teacher`` or the mean with others.

    Each of several is kept as a stage ``student-1``, ``student-2``, ... beside the chain.
    """
    if len(chain.run.students) < 2:
        return pipeline.student_stage(chain, teacher, others)
    return chain.stage("student", lambda: _best(chain, teacher, others), judge=False)


def _best(chain: Pipeline, teacher: Classifier, others: Sequence[Classifier]) -> Outcome:
    """Distil all, each on the same images, and choose."""
    run = chain.run
    held_out = held_out_pool(run)
    task = dataclasses.replace(run.task, pool=np.setdiff1d(run.task.pool, held_out))
    arms: list[Outcome] = []
    for number, (candidate, work) in enumerate(run.students, start=1):
        config = run.config.changed("distill", student=candidate.student)
        shop = dataclasses.replace(run.shop, config=config)
        distill = partial(student.distill, shop, task, teacher, work, others)
        arms.append(chain.arm(f"student-{number}", distill).outcome)
    verdict = run.folder.pinned(
        "student_choice", lambda: _choose(run, arms, [teacher, *others], held_out)
    )
    best: Outcome = arms[verdict["chosen"]]
    return dataclasses.replace(best, remark=f"chosen of {len(arms)} students: {verdict['reason']}")


def held_out_pool(run: Run) -> Rows:
    """Pool images that no student learns from, so that they can tell which is best; rising.

    None where a ``val`` split tells it, or where the pool has too few.
    """
    pool = run.task.pool
    if len(run.task.folds[0].judges):
        return pool[:0]
    least, most = HELD_OUT
    count = min(max(round(HELD_OUT_SHARE * len(pool)), least), most, len(pool) // 4)
    drawn = np.random.default_rng(run.config.data.seed).permutation(len(pool))[:count]
    return pool[np.sort(drawn)]


def _choose(
    run: Run, arms: Sequence[Outcome], teachers: Sequence[Classifier], held_out: Rows
) -> dict[str, Any]:
    """The best on held-out images, of equals the cheapest; without images the costliest."""
    known = arms[0].beliefs.known
    if known.any():
        answers = [arm.beliefs.judged[known] for arm in arms]
        truth, by = run.task.judged_labels[known], "accuracy on held-out labels"
    elif len(held_out):
        answers = [_look(run, arm.model, held_out) for arm in arms]
        beliefs = [
            softmax(_look(run, model, held_out), model.spec.temperature) for model in teachers
        ]
        truth = np.mean(beliefs, axis=0).argmax(axis=1)
        by = "agreement with the teacher on pool images that no student learned from"
    else:
        reason = "no held-out image could judge them, so it is the costliest"
        return {"by": None, "n": 0, "scores": None, "chosen": len(arms) - 1, "reason": reason}
    scores = [float((logits.argmax(axis=1) == truth).mean()) for logits in answers]
    chosen = int(np.argmax(scores))
    reason = f"{by}: {scores[chosen]:.1%} of {len(truth)}"
    return {"by": by, "n": len(truth), "scores": scores, "chosen": chosen, "reason": reason}


def _look(run: Run, model: Classifier, rows: Rows) -> Any:
    """Logits (N, K) of clean views."""
    return trunk.clean_logits(run.shop, run.task, model, rows, views=1)


def measure(run: Run) -> dict[str, Any]:
    """For metrics.json: each student's cost, score and test figures; nothing of a single one."""
    if len(run.students) < 2:
        return {}
    verdict = run.folder.read_json("config.json")["student_choice"]
    names = [f"student-{number}" for number in range(1, len(run.students) + 1)]
    finished = [pipeline.load_stage(run.folder.stages / name, name) for name in names]
    rows = run.split.indices("test")
    probs = pipeline.predict_rows(run, finished, rows) if len(rows) else {}
    return {
        "students": [
            {
                "name": done.name,
                "student": candidate.student,
                "cut": done.outcome.model.spec.cut,
                "size": candidate.size,
                "parameters": candidate.parameters,
                "latency_ms": candidate.latency_ms,
                "megabytes": candidate.megabytes,
                "seconds": round(done.seconds, 2),
                "held_out": None
                if verdict["scores"] is None
                else {"by": verdict["by"], "n": verdict["n"], "score": verdict["scores"][number]},
                "chosen": number == verdict["chosen"],
                "test": metrics(probs[done.name], run.split.truth[rows]) if len(rows) else None,
            }
            for number, (done, (candidate, _)) in enumerate(
                zip(finished, run.students, strict=True)
            )
        ]
    }

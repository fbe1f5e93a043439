"""What each stage does, put together from heads on the frozen trunk and trainings of the trunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tutelage.chain import frozen, pool, rounds, trained
from tutelage.chain.answers import inherit_threshold, mean_beliefs, temperature_of
from tutelage.chain.pipeline import Pipeline, judge
from tutelage.chain.plan import Work
from tutelage.chain.student import distill
from tutelage.chain.types import Outcome
from tutelage.models.classifier import Classifier
from tutelage.stats.pseudo_labels import PseudoLabels


def probe(chain: Pipeline) -> Outcome:
    """Logistic regression on the frozen trunk's features."""
    return frozen.probe(chain.run, chain.features)


def transfer(chain: Pipeline) -> Outcome:
    """A new head on the frozen trunk; where the plan says so, trunk and head trained together.

    A trained trunk takes the place of the head alone where held-out labels speak for it, or where
    the user asked for one.
    """
    run = chain.run
    head = frozen.transfer(run, chain.features)
    if run.plan.transfer.trunk == "frozen":
        return head
    start = head.choice["trained"]
    none: list[PseudoLabels | None] = [None] * len(run.task.folds)
    alone, features = chain.trainee
    heads = frozen.fit_fold_heads(alone, features, start, none)
    both = trained.train_trunk(
        alone, heads, none, run.plan.transfer, "transfer", judged_folds=len(none) - 1
    )
    both.choice = head.choice
    if run.config.transfer.trunk == "trained":
        return both
    found = judge(run.task, head, both)
    better = found.n > 0 and found.accepted and found.nll_after <= found.nll_before
    return both if better else head


def self_train(chain: Pipeline, work: Work, name: str) -> Outcome:
    """A round: the teacher labels the pool, and a student learns from labels and pool.

    In the first round the pool's clusters may label it together with the teacher. They know what
    the head does not, where the images lie close together; where they err, the head holds against
    it, of which few held-out labels say little (benchmarks/log.md).
    """
    run, teacher = chain.run, chain.teacher.outcome
    beliefs, temperature = teacher.beliefs, teacher.model.spec.temperature
    if teacher.pseudo_labels is None and rounds.clusters_verdict(chain)["likelier"]:
        beliefs = mean_beliefs(run.task, beliefs, chain.clustered.beliefs)
        temperature = temperature_of(run.task, beliefs)
    labels = pool.label_pool(run, beliefs, temperature, chain.detections)
    if work.trunk == "frozen":
        return frozen.self_train(run, chain.features, chain.choice, labels)
    judged = run.plan.judged_folds
    alone, features = chain.trainee
    few = alone.on(folds=run.task.folds[: 1 + judged])
    heads = frozen.fit_fold_heads(few, features, chain.start, labels[: 1 + judged])
    outcome = trained.train_trunk(alone, heads, labels, work, name, judged_folds=judged)
    if outcome.model.spec.unknown_threshold is None:
        inherit_threshold(run, outcome.model, teacher.model)
    return outcome


def student(chain: Pipeline, teachers: Sequence[Classifier]) -> Outcome:
    """The small model that mimics the mean of the teachers."""
    run = chain.run
    outcomes = (stage.outcome for stage in chain.teachers)
    known = next((o.beliefs.pool[0] for o in outcomes if [o.model] == [*teachers]), None)
    for teacher in teachers:  # a given teacher may have been made for another canvas
        teacher.spec = dataclasses.replace(teacher.spec, canvas=run.store.canvas)
    return distill(run, teachers, run.plan.student, known)

"""What each stage does, and which rounds of self-training there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.chain import frozen, pool, trained
from tutelage.chain.answers import inherit_threshold, mean_beliefs, temperature_of
from tutelage.chain.pipeline import Pipeline, judge
from tutelage.chain.plan import Work
from tutelage.chain.student import distill
from tutelage.chain.types import ROUND, Outcome
from tutelage.models.classifier import Classifier
from tutelage.stats.pseudo_labels import PseudoLabels
from tutelage.system.words import are, counted, were


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
    none: list[PseudoLabels | None] = [None] * len(run.task.folds)
    alone, features = chain.trainee
    heads = frozen.fit_fold_heads(alone, features, head.choice["trained"], none)
    work, judged = run.plan.transfer, len(none) - 1
    both = trained.train_trunk(alone, heads, none, work, "transfer", judged_folds=judged)
    both.choice = head.choice
    if run.config.transfer.trunk == "trained":
        return both
    found = judge(run.task, head, both)
    better = found.n > 0 and found.accepted and found.nll_after <= found.nll_before
    return both if better else head


def say_features(chain: Pipeline) -> None:
    """Say where the head looks, if not at the trunk's last features."""
    run, done = chain.run, chain.finished[-1]
    if not done.outcome.model.spec.has_levels:
        return
    reason = "as --features levels asks"
    if run.config.transfer.features == "auto":
        reason = "because that predicts held-out labels better (--features last does without)"
    run.tell(f"the classifier also looks at the middle stages of the pretrained network, {reason}")


def worth_it(chain: Pipeline) -> bool:
    """Whether rounds are planned: not where the pool seems to fall into other groups than classes.

    Rounds that the user asks for are trained in any case.
    """
    run = chain.run
    if not run.plan.rounds or not len(run.task.pool):
        return False
    verdict = clusters_verdict(chain)
    if verdict["doubt"] and run.config.self_train.rounds is None:
        run.tell(
            "there is no round of self-training, because the unlabelled images do not seem to "
            f"group by class, as far as {counted(len(run.task.labeled), 'label')} can tell; more "
            "labels tell it better, and --rounds 2 trains rounds anyway and keeps them if they do "
            "no harm"
        )
        return False
    if verdict["likelier"]:
        run.tell(
            "in self-train-1, clusters of the unlabelled images help to label them, because that "
            "predicts held-out labels better (--clusters ignore does without)"
        )
    return True


def clusters_verdict(chain: Pipeline) -> dict[str, Any]:
    """What the pool's clusters are worth, found once per run folder if they are asked at all."""
    if chain.run.config.self_train.clusters == "ignore":
        return {"likelier": False, "doubt": ""}

    def asked() -> dict[str, Any]:
        found = chain.clustered
        agreement = round(found.agreement, 3)
        return {"agreement": agreement, "likelier": found.likelier, "doubt": found.doubt}

    return dict(chain.run.folder.pinned("clusters", asked))


def affordable(chain: Pipeline) -> Iterator[tuple[str, Work]]:
    """Yield the planned rounds while there is time and their kind helps; the caller runs each.

    The seconds that are kept with the stages are counted, so that a kill buys no time; and what was
    once left out stays out.
    """
    run = chain.run
    stopped: set[str] = set()
    for number, work in enumerate(run.plan.rounds, start=1):
        if work.trunk in stopped:
            continue
        name = f"{ROUND}{number}"
        pinned = run.folder.read_json("config.json")
        late = pinned.get("left_out") == name or run.clock.late(run.plan, work)
        if late and not (run.folder.stages / name / "stage.json").exists():
            run.folder.pin("left_out", name)
            run.note(f"{name} was left out, because no time was left for it (--minutes)")
            return
        yield name, work
        _say_outside(chain)
        if not chain.finished[-1].accepted:  # another round of this kind would not help either
            stopped.add(work.trunk)
            later = run.plan.rounds[number:]
            if alike := sum(one.trunk == work.trunk for one in later):
                kind = " on the frozen trunk" if alike < len(later) else ""
                them = "the round" if alike == 1 else f"the {alike} rounds"
                run.console.say(
                    f"{them}{kind} after {name} {are(alike)} left out: a round learns from the one "
                    "before it, so after a rejected one it would learn the same again"
                )


def _say_outside(chain: Pipeline) -> None:
    """Say how many pool images looked like none of the classes in the last round."""
    done = chain.finished[-1]
    labels = done.outcome.pseudo_labels
    if labels is None or not labels.outside.any():
        return
    out = int(labels.outside.sum())
    look = "looks" if out == 1 else "look"
    chain.run.tell(
        f"in {done.name}, {out:,} of {len(labels.outside):,} unlabelled images {look} like none of "
        f"the classes and {were(out)} left out (pseudo_labels.parquet lists them; --out-of-class "
        "keep keeps them)"
    )


def self_train(chain: Pipeline, work: Work, name: str) -> Outcome:
    """A round: the teacher labels the pool, and a student learns from labels and pool.

    In the first round the pool's clusters may label it together with the teacher. They know what
    the head does not, where the images lie close together; where they err, the head holds against
    it, of which few held-out labels say little (benchmarks/log.md).
    """
    run, teacher = chain.run, chain.teacher.outcome
    beliefs, temperature = teacher.beliefs, teacher.model.spec.temperature
    if teacher.pseudo_labels is None and clusters_verdict(chain)["likelier"]:
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

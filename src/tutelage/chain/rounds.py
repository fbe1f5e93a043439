"""Which rounds of self-training are made, and what the user is told about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.chain.pipeline import Pipeline
from tutelage.chain.plan import Work
from tutelage.chain.types import ROUND
from tutelage.system.words import are, counted, were


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
        return {
            "agreement": round(found.agreement, 3),
            "likelier": found.likelier,
            "doubt": found.doubt,
        }

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
        if not chain.finished[-1].accepted:  # another round of this kind would not help either
            stopped.add(work.trunk)
            _say_stopped(chain, name, run.plan.rounds[number:], work)


def _say_stopped(chain: Pipeline, name: str, later: Sequence[Work], rejected: Work) -> None:
    """Say which of the later rounds are not made, now that one was rejected."""
    alike = sum(work.trunk == rejected.trunk for work in later)
    if not alike:
        return
    kind = " on the frozen trunk" if alike < len(later) else ""
    them = "the round" if alike == 1 else f"the {alike} rounds"
    chain.run.console.say(
        f"{them}{kind} after {name} {are(alike)} left out: a round learns from the one before it, "
        "so after a rejected one it would learn the same again"
    )


def say_features(chain: Pipeline) -> None:
    """Say where the head looks, if not at the trunk's last features."""
    run, done = chain.run, chain.finished[-1]
    if not done.outcome.model.spec.has_levels:
        return
    reason = "as --features levels asks"
    if run.config.transfer.features == "auto":
        reason = "because that predicts held-out labels better (--features last does without)"
    run.tell(f"the classifier also looks at the middle stages of the pretrained network, {reason}")


def say_left_out(chain: Pipeline) -> None:
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

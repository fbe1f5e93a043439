"""The chain: probe, transfer, rounds of self-training, distilled student, and what they are worth.

Every stage is kept in the run folder when it is finished; the same command goes on after the last
one. Test images are looked at once, after the last decision.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.chain import selftrain, stages, student, trunk
from tutelage.chain.plan import Work
from tutelage.chain.runs import Run
from tutelage.chain.stages import Beliefs, Outcome, Task
from tutelage.chain.trunk import Workshop
from tutelage.heads.bank import CLEAN_VIEWS, bank_plans, make_bank
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.models.folder import load_model, save_model
from tutelage.models.forward import Forward
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Comparison, Floats, compare, metrics
from tutelage.stats.pseudo_labels import PseudoLabels
from tutelage.stats.unknown import Detection
from tutelage.system.errors import TutelageError
from tutelage.system.files import digest, install, write_atomically
from tutelage.system.ranks import by_lead, is_lead, wait
from tutelage.training.loader import Rows


@dataclass(frozen=True)
class Finished:
    """One finished stage, as its folder holds it.

    Attributes:
        name: as in metrics.json.
        accepted: it became the teacher (or is the student).
        reason: why, in words.
        seconds: what it took.
        comparison: with its predecessor on held-out labels; None for the first and the student.
        outcome: its model and beliefs.
    """

    name: str
    accepted: bool
    reason: str
    seconds: float
    comparison: Comparison | None
    outcome: Outcome


class Pipeline:
    """Runs stages in order, judges each against its predecessor, and keeps them in the folder."""

    def __init__(self, run: Run) -> None:
        """Nothing is run yet."""
        self.run = run
        self.finished: list[Finished] = []
        self._frozen: stages.Frozen | None = None
        self._detections: list[Detection | None] | None = None
        self._clustered: selftrain.Clustered | None = None

    @property
    def teacher(self) -> Finished:
        """The last accepted stage."""
        return [stage for stage in self.finished if stage.accepted][-1]

    @property
    def teachers(self) -> list[Finished]:
        """The accepted stages without the student, in order."""
        return [stage for stage in self.finished if stage.accepted and stage.name != "student"]

    @property
    def pool_logits(self) -> Floats:
        """The teacher's answers (M, K) to the pool; one that labelled it as it learned is asked."""
        outcome, run = self.teachers[-1].outcome, self.run
        known = outcome.beliefs.pool[0]
        if known is None:
            known = trunk.clean_logits(run.shop, run.task, outcome.model, run.task.pool)
            outcome.beliefs.pool[0] = known
        return known

    @property
    def choice(self) -> dict[str, Any]:
        """What transfer chose on held-out labels for heads on the frozen trunk."""
        chosen = [s.outcome.choice for s in self.finished if s.outcome.choice]
        return chosen[-1] if chosen else {"metric": "plain", "strength": stages.PROBE_STRENGTH}

    @property
    def start(self) -> dict[str, Any]:
        """The same of the head that a trained trunk starts from."""
        return dict(self.choice.get("trained", self.choice))

    def stage(self, name: str, work: Callable[[], Outcome], *, judge: bool = True) -> Finished:
        """Run a stage, or take it from the folder where it is finished."""
        done = self._made(name, work, judge=judge)
        self.finished.append(done)
        return done

    def arm(self, name: str, work: Callable[[], Outcome]) -> Finished:
        """A stage to compare the chain with: it is kept in the folder, but never in the chain."""
        return self._made(name, work, judge=False)

    def _made(self, name: str, work: Callable[[], Outcome], *, judge: bool) -> Finished:
        folder = self.run.folder.stages / name
        if by_lead(lambda: _is_whole(folder, self.run.console.say)):
            done = load_stage(folder, name)
        else:
            done = self._worked(name, folder, work, judge=judge)
        if is_lead():
            self.run.trainings.forget(folder)
        verdict = "kept" if done.accepted else "REJECTED"
        self.run.console.say(f"{name}: {verdict} ({done.reason}), {done.seconds:.0f} s")
        return done

    def _worked(
        self, name: str, folder: Path, work: Callable[[], Outcome], *, judge: bool
    ) -> Finished:
        """Do a stage's work and keep it; every rank goes on with what the lead kept."""
        self.run.console.record("stage", name=name)
        with self.run.trainings.of(folder) as seconds:
            outcome = work()
            comparison = None
            accepted = True
            reason = "the first stage" if not self.finished else outcome.remark or "not compared"
            if judge and self.finished:
                comparison = self._compare(outcome)
                accepted, reason = comparison.accepted, comparison.reason
            done = Finished(name, accepted, reason, seconds(), comparison, outcome)
            if is_lead():
                _save_stage(folder, done)
            wait()
        return done if is_lead() else load_stage(folder, name)

    def _compare(self, after: Outcome) -> Comparison:
        return _judge(self.run.task, self.teacher.outcome, after)

    @property
    def frozen(self) -> stages.Frozen:
        """The pretrained trunk's features; made when first asked for."""
        if self._frozen is None:
            self._frozen = _make_frozen(self.run)
        return self._frozen

    @property
    def detections(self) -> list[Detection | None]:
        """The pool images out of class, by the labels of each of the task's chains."""
        if self._detections is None:
            run = self.run
            self._detections = selftrain.detections_of(run.task, self.frozen, run.config)
        return self._detections

    @property
    def clustered(self) -> selftrain.Clustered:
        """What the pool's clusters say to the teacher of the first round."""
        if self._clustered is None:
            teacher = self.teacher.outcome
            self._clustered = selftrain.ask_clusters(
                self.run.task,
                self.frozen,
                self.choice["metric"],
                teacher.beliefs,
                teacher.model.spec.temperature,
                self.detections,
            )
        return self._clustered


def _judge(task: Task, before: Outcome, after: Outcome) -> Comparison:
    """Two outcomes' calibrated answers to the images that both were judged on."""
    both = before.beliefs.known & after.beliefs.known
    was, now = (
        softmax(outcome.beliefs.judged[both], outcome.model.spec.temperature)
        for outcome in (before, after)
    )
    # With a val split there are no folds: the model itself is judged.
    shortened = not after.frozen and len(task.folds) > 1
    return compare(was, now, task.judged_labels[both], shortened=shortened)


def _make_frozen(run: Run) -> stages.Frozen:
    task, plan = run.task, run.plan
    forward = Forward(run.base.to(run.device), "features")
    crop_pct, crop_scale = run.base.spec.crop_pct, run.config.transfer.crop_scale
    strong = trunk.strong_policy(run.config.transfer, crop_pct)
    plans = bank_plans(plan.views, crop_pct, strong, crop_scale)
    rows = np.concatenate([task.labeled, task.pool])
    with run.progress("features", len(rows) * len(plans)) as done:
        bank = make_bank(
            task.canvases,
            rows,
            forward,
            plan.size,
            plans,
            seed=run.config.data.seed,
            progress=done,
        )
    n = len(task.labeled)
    labeled, pool = bank.take(np.arange(n)), bank.take(np.arange(n, len(rows)))
    judged = labeled
    if task.judged is not task.labeled:
        clean = bank_plans(CLEAN_VIEWS, crop_pct, strong, crop_scale)
        judged = make_bank(
            task.canvases, task.judged, forward, plan.size, clean, seed=run.config.data.seed
        )
    run.base.cpu()
    own = run.base.own_features
    return stages.make_frozen(labeled, pool, judged, own, run.base.pretrained_head)


def teach(chain: Pipeline, *, rounds: bool) -> None:
    """Probe, transfer and, if asked, the planned rounds of self-training."""
    run = chain.run
    task, config, plan = run.task, run.config, run.plan
    shop = run.shop
    chain.stage("probe", lambda: stages.probe(task, run.base, chain.frozen, config.transfer))
    none: list[Any] = [None] * len(task.folds)

    def transfer() -> Outcome:
        frozen = stages.transfer_frozen(task, run.base, chain.frozen, config.transfer)
        if plan.transfer.trunk == "frozen":
            return frozen
        start, folds = frozen.choice["trained"], len(task.folds)
        heads = stages.fit_chain_heads(task, chain.frozen, start, config, none)
        trained = trunk.train_trunk(
            shop, task, run.base, heads, none, plan.transfer, folds, "transfer", start
        )
        trained.choice = frozen.choice
        # Only a trained trunk that the labels speak for takes the place of the head alone.
        if config.transfer.trunk == "trained":
            return trained
        judged = _judge(task, frozen, trained)
        better = judged.n > 0 and judged.accepted and judged.nll_after <= judged.nll_before
        return trained if better else frozen

    _say_features(run, chain.stage("transfer", transfer))
    if not rounds or not plan.rounds or not len(task.pool):
        return
    if _contradicted(chain):
        return
    stopped: set[str] = set()
    for number, work in enumerate(plan.rounds, start=1):
        if work.trunk in stopped:
            continue  # a round of this kind did not help; another like it would not either
        name = f"self-train-{number}"
        # The stages' own seconds are counted, kept with them: a kill buys no time, and what was
        # left out once stays out.
        pinned = run.folder.read_json("config.json")
        spent = sum(done.seconds for done in chain.finished)
        spent += pinned.get("strong_view", {}).get("seconds", 0.0)
        left_out = pinned.get("left_out")
        finished = (run.folder.stages / name / "stage.json").exists()
        if not finished and (left_out == name or spent > plan.minutes * 60):
            run.folder.pin("left_out", name)
            run.note(f"the time budget was spent before {name}: it was left out")
            break
        done = chain.stage(name, lambda work=work, name=name: _round(chain, shop, work, name))  # type: ignore[misc]
        _say_left_out(run, done)
        if not done.accepted:
            stopped.add(work.trunk)


def _verdict(chain: Pipeline) -> dict[str, Any]:
    """What the pool's clusters are worth, found once per run folder; nothing if not asked."""
    if chain.run.config.self_train.clusters == "ignore":
        return {"likelier": False}

    def asked() -> dict[str, Any]:
        found = chain.clustered
        return {"agreement": round(found.agreement, 3), "likelier": found.likelier}

    return dict(chain.run.folder.pinned("clusters", asked))


def _contradicted(chain: Pipeline) -> bool:
    """Whether planned rounds are left out, because the pool's clusters are not its classes."""
    run, verdict = chain.run, _verdict(chain)
    if "agreement" not in verdict:
        return False
    agreement = f"agreement with the labels' head: kappa {verdict['agreement']:.2f}"
    if verdict["likelier"]:
        run.note(
            f"self-train-1: its pseudo-labels are the pool's clusters ({agreement}): held-out "
            "labels are likelier so; --clusters ignore asks the head instead"
        )
        return False
    planned = run.config.self_train.rounds is None
    if planned and verdict["agreement"] < selftrain.LEAST_AGREEMENT:
        run.note(
            f"no round of self-training: the pool falls into other clusters than the classes "
            f"({agreement}), and rounds would learn those; --rounds N trains them all the same"
        )
        return True
    return False


def _say_features(run: Run, done: Finished) -> None:
    if not done.outcome.model.spec.levels:
        return
    reason = "as --features levels says"
    if run.config.transfer.features == "auto":
        reason = "held-out labels are likelier with them (--features last keeps the last features)"
    run.note(f"{done.name}: the head looks at the trunk's middle stages: {reason}")


def _say_left_out(run: Run, done: Finished) -> None:
    labels = done.outcome.pseudo_labels
    if labels is None or not labels.outside.any():
        return
    run.note(
        f"{done.name}: {labels.outside.sum()} of {len(labels.outside)} pool images look like none "
        "of the classes and were left out (see pseudo_labels.parquet; --out-of-class keep keeps "
        "them)"
    )


def _round(chain: Pipeline, shop: Workshop, work: Work, name: str) -> Outcome:
    run, teacher = chain.run, chain.teacher.outcome
    beliefs, temperature = teacher.beliefs, teacher.model.spec.temperature
    if teacher.pseudo_labels is None and _verdict(chain)["likelier"]:
        beliefs = chain.clustered.beliefs
        temperature = stages.temperature_of(run.task, beliefs)
    labels = selftrain.label_pool(
        run.task,
        beliefs,
        temperature,
        run.config,
        work.fraction,
        chain.detections,
    )
    if work.trunk == "frozen":
        return stages.self_train_frozen(
            run.task, run.base, chain.frozen, labels, chain.choice, run.config
        )
    few = dataclasses.replace(run.task, folds=run.task.folds[: 1 + run.plan.judged_folds])
    heads = stages.fit_chain_heads(
        few, chain.frozen, chain.start, run.config, labels[: len(few.folds)]
    )
    outcome = trunk.train_trunk(
        shop, run.task, run.base, heads, labels, work, run.plan.judged_folds, name, chain.start
    )
    if outcome.model.spec.unknown_threshold is None:
        trunk.inherit_threshold(shop, run.task, outcome.model, teacher)
    return outcome


def student_stage(
    chain: Pipeline, teacher: Classifier, others: Sequence[Classifier] = ()
) -> Finished:
    """Distil ``teacher``, or the mean of it and ``others``, into the student."""
    run = chain.run

    def distill() -> Outcome:
        return student.distill(run.shop, run.task, teacher, run.plan.student, others)

    return chain.stage("student", distill, judge=False)


def _save_stage(folder: Path, done: Finished) -> None:
    """Write a stage into a neighbour folder, then rename: a kill leaves none or all of it."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    outcome = done.outcome
    save_model(outcome.model, partial)
    pools = {f"pool{i}": p for i, p in enumerate(outcome.beliefs.pool) if p is not None}
    _save_arrays(partial / "beliefs.npz", judged=outcome.beliefs.judged, **pools)
    if outcome.pseudo_labels is not None:
        labels = outcome.pseudo_labels
        named = {f.name: getattr(labels, f.name) for f in dataclasses.fields(labels)}
        _save_arrays(partial / "pseudo_labels.npz", **named)
    record = {
        "accepted": done.accepted,
        "reason": done.reason,
        "seconds": done.seconds,
        "comparison": None if done.comparison is None else dataclasses.asdict(done.comparison),
        "frozen": outcome.frozen,
        "chains": len(outcome.beliefs.pool),
        "choice": outcome.choice,
        "files": {path.name: digest(path.read_bytes()) for path in sorted(partial.iterdir())},
    }
    write_atomically(partial / "stage.json", json.dumps(record, indent=2) + "\n")
    install(partial, folder)


def _save_arrays(path: Path, **arrays: Any) -> None:
    """``np.savez``, whose archive cannot be closed once a write of it has failed."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def _is_whole(folder: Path, say: Callable[[str], None]) -> bool:
    """Whether a stage is kept in ``folder``; one that the disk damaged is named and moved aside."""
    if not (folder / "stage.json").exists():
        return False
    try:
        record = json.loads((folder / "stage.json").read_text())
        for name, written in record.get("files", {}).items():
            if digest((folder / name).read_bytes()) != written:
                raise ValueError(f"the bytes of {name} are not those that were written")
    # Not a disk that fails for a moment. A record that is a list has no attributes of an object.
    except (FileNotFoundError, ValueError, AttributeError) as error:
        aside = folder.with_name(f".{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        say(f"stage {folder.name} is damaged ({error}): it is kept as {aside} and done anew")
        return False
    return True


def load_stage(folder: Path, name: str) -> Finished:
    """A finished stage, as its folder holds it.

    Raises:
        TutelageError: the folder is damaged.
    """
    try:
        return _read_stage(folder, name)
    except Exception as error:  # numpy, zipfile and json each raise their own
        raise TutelageError(
            f"the stage in {folder} cannot be read: {str(error) or type(error).__name__}; delete "
            "that folder, and the same command makes it again"
        ) from error


def _read_stage(folder: Path, name: str) -> Finished:
    record = json.loads((folder / "stage.json").read_text())
    with np.load(folder / "beliefs.npz") as arrays:
        pool = [arrays.get(f"pool{i}") for i in range(record["chains"])]
        beliefs = Beliefs(pool, arrays["judged"])
    pseudo_labels = None
    if (folder / "pseudo_labels.npz").exists():
        with np.load(folder / "pseudo_labels.npz") as arrays:
            pseudo_labels = PseudoLabels(**dict(arrays))
    outcome = Outcome(
        load_model(folder), beliefs, record["frozen"], pseudo_labels, record["choice"]
    )
    comparison = record["comparison"]
    return Finished(
        name,
        record["accepted"],
        record["reason"],
        record["seconds"],
        None if comparison is None else Comparison(**comparison),
        outcome,
    )


def predict_rows(run: Run, finished: Sequence[Finished], rows: Rows) -> dict[str, Floats]:
    """Each stage's calibrated probabilities (N, K) of the same images, by stage name.

    Stages that share the untouched trunk share its features: those of the model that looks at most
    of them, which begin with the trunk's own.
    """
    features: Tensor | None = None
    frozen = [done.outcome.model for done in finished if done.outcome.frozen]
    widest = max(frozen, key=lambda model: model.num_features, default=None)
    look = functools.partial(stages.evaluation_look, run.task.canvases, rows)
    out: dict[str, Floats] = {}
    for done in finished:
        model = done.outcome.model
        with run.progress(f"test, {done.name}", len(rows)) as tick:
            if widest is None or not done.outcome.frozen:
                logits = look(model, run.device, progress=tick)
            else:
                if features is None:
                    features = look(widest, run.device, "features", progress=tick)
                with torch.no_grad():
                    logits = model.head(features[:, : model.num_features])
        out[done.name] = softmax(logits.numpy().astype(np.float64), model.spec.temperature)
    return out


def measure(run: Run, finished: Sequence[Finished]) -> tuple[dict[str, Any], dict[str, Floats]]:
    """The content of metrics.json, and the test probabilities behind it."""
    rows = run.split.indices("test")
    labels = run.split.truth[rows]
    probs = predict_rows(run, finished, rows) if len(rows) else {}
    entries = []
    for done in finished:
        known = done.outcome.beliefs.known
        temperature = done.outcome.model.spec.temperature
        val = None
        if known.any():
            held_out = softmax(done.outcome.beliefs.judged[known], temperature)
            val = metrics(held_out, run.task.judged_labels[known])
        entries.append(
            {
                "name": done.name,
                "accepted": done.accepted,
                "seconds": round(done.seconds, 2),
                "parameters": count_parameters(done.outcome.model),
                "val": val,
                "test": metrics(probs[done.name], labels) if len(rows) else None,
            }
        )
    teachers = [
        e for e, d in zip(entries, finished, strict=True) if d.accepted and d.name != "student"
    ]
    teacher = teachers[-1] if teachers else None
    final = entries[-1] if entries[-1]["name"] == "student" else teacher
    return {"stages": entries, "final": final, "teacher": teacher}, probs

"""The pictures of the report: what the model gets wrong, what it labelled, and what to look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.augment import Center, apply
from tutelage.chain.recipe import strong_policy
from tutelage.chain.types import Finished, Run, is_round
from tutelage.report.model import ClassSheets, Sheet, StageTest, Thumb
from tutelage.stats.label_errors import CUT
from tutelage.stats.pseudo_labels import PseudoLabels
from tutelage.system.words import counted
from tutelage.training.loader import Rows

SHOWN = 24  # pictures on a contact sheet
TO_REVIEW = 10  # pictures on the first screen
MISTAKES, RIGHT, SURE, UNSURE = 9, 3, 4, 5  # pictures of one class, at most
CLASSES = 20  # classes that have pictures of their own
SIDE = 144  # of a picture, in pixels


def sheets(run: Run, finished: Sequence[Finished]) -> list[Sheet]:
    """Contact sheets that belong to no class: views, images out of class, copies."""
    out = [_views_sheet(run)]
    if latest := latest_round(finished):
        done, labels = latest
        far = np.argsort(-labels.distances, kind="stable")[: labels.outside.sum()][:SHOWN]
        if len(far):
            note = "Left out of training: they look like none of the classes."
            looks_like = [f"closest to {run.catalog.classes[labels.labels[i]]}" for i in far]
            shown = thumbs(run, run.task.pool[far], looks_like)
            out.append(Sheet(f"Out of class ({done.name})", note, shown))
    if run.copies.found:
        out.append(_copies_sheet(run))
    return out


def rounds(finished: Sequence[Finished]) -> list[tuple[Finished, PseudoLabels]]:
    """The rounds of self-training, with what they labelled."""
    return [
        (done, done.outcome.pseudo_labels)
        for done in finished
        if is_round(done) and done.outcome.pseudo_labels is not None
    ]


def latest_round(finished: Sequence[Finished]) -> tuple[Finished, PseudoLabels] | None:
    """The last round that was kept; if none was, the last one."""
    found = rounds([done for done in finished if done.accepted]) or rounds(finished)
    return found[-1] if found else None


def class_sheets(
    run: Run, finished: Sequence[Finished], rows: Rows, tested: Mapping[str, StageTest]
) -> list[ClassSheets]:
    """The pictures of each class; of many classes, those with the most mistakes.

    ``tested`` are the stages' answers to the test images ``rows``.
    """
    accepted = [done.name for done in finished if done.accepted]
    test = tested.get(accepted[-1]) if accepted else None
    latest = latest_round(finished)
    classes = np.arange(len(run.catalog.classes))
    if len(classes) > CLASSES and test is not None:
        wrong = np.bincount(test.labels[~test.correct], minlength=len(classes))
        classes = np.argsort(-wrong, kind="stable")
    out = []
    for k in classes[:CLASSES]:
        of_class, score = [], ""
        if test is not None and (own := test.labels == k).any():
            of_class = _tested_sheets(run, rows, accepted[-1], test, k)
            wrong_ones = (own & ~test.correct).sum()
            score = f"{wrong_ones} of {counted(int(own.sum()), 'test image')} wrong"
        if latest is not None:
            of_class += _pseudo_sheets(run, *latest, k)
        if of_class:
            out.append(ClassSheets(run.catalog.classes[k], of_class, score))
    return out


def _tested_sheets(run: Run, rows: Rows, name: str, test: StageTest, k: int) -> list[Sheet]:
    """Test images of a class: those that the model got wrong, and some that it got right."""
    who = f"the {name}" if name == "student" else name
    own, sure = test.labels == k, test.probs.max(axis=1)
    out = []
    for right, words, most in ((False, "taken for", MISTAKES), (True, "called", RIGHT)):
        found = np.flatnonzero(own & (test.correct == right))
        shown = found[np.argsort(-sure[found], kind="stable")][:most]
        names = [run.catalog.classes[k] for k in test.predicted[shown]]
        said = [f"{words} {n} by {who}, {sure[i]:.0%}" for n, i in zip(names, shown, strict=True)]
        if len(shown):
            title = f"{'Right' if right else 'Wrong'} answers on test images"
            of_all = f"{len(found)} of {own.sum()}"
            note = f"{of_all}; the {len(shown)} surest answers first." if len(found) > 1 else ""
            out.append(Sheet(title, note, thumbs(run, rows[shown], said)))
    return out


def _pseudo_sheets(run: Run, done: Finished, labels: PseudoLabels, k: int) -> list[Sheet]:
    """Pool images that the latest round labelled with a class, the surest and the least sure."""
    found = np.flatnonzero((labels.labels == k) & ~labels.outside)
    order = found[np.argsort(-labels.confidence[found], kind="stable")]
    which = ", the surest first"
    if len(order) > SURE + UNSURE:
        which = f"; the {SURE} surest, then the {UNSURE} least sure"
        order = np.concatenate([order[:SURE], order[-UNSURE:]])
    if not len(order):
        return []
    label = run.catalog.classes[k]
    said = [f"pseudo-label {label} in {done.name}, {labels.confidence[i]:.0%}" for i in order]
    shown = thumbs(run, run.task.pool[order], said)
    title = f"Pseudo-labels of {done.name}"
    note = f"{counted(len(found), 'unlabelled image')}{which if len(found) > 1 else ''}."
    if not done.accepted:
        note += " The round was rejected: the delivered model did not learn from these labels."
        shown = [dataclasses.replace(thumb, mark="rejected round") for thumb in shown]
    return [Sheet(title, note, shown)]


def to_review(run: Run, worklist: Mapping[str, Sequence[Any]]) -> list[Thumb]:
    """The images that most need a look, from the columns of ``review.parquet``.

    First the labels that are likelier wrong than right, then the images to label next, then the
    other labels, the most doubtful first. The page says so below them.
    """
    suspicion = np.array(worklist["suspicion"], dtype=float)
    ranks = np.array([np.inf if rank is None else rank for rank in worklist["next"]])
    doubtful = [i for i in np.argsort(-suspicion, kind="stable") if suspicion[i] > 0]
    wrong = [i for i in doubtful if suspicion[i] > CUT]
    wanted = [i for i in np.argsort(ranks, kind="stable") if np.isfinite(ranks[i])]
    chosen = list(dict.fromkeys([*wrong, *wanted, *doubtful]))[:TO_REVIEW]
    rows = np.concatenate([run.task.labeled, run.task.pool])[chosen]
    said = [_why(*(worklist[name][i] for name in WHY)) for i in chosen]
    return thumbs(run, rows, said)


WHY = ("given", "label", "other", "suspicion", "next")


def _why(given: str | None, label: str, other: str, suspicion: float, rank: int | None) -> str:
    """What is asked about an image, with the quantity that it is sorted by."""
    if given is None:
        place = "" if rank is None else f"; number {rank + 1} to label next"
        return f"{label} or {other}? No label yet{place}"
    likelier = other if label == given else label
    if suspicion > CUT:
        return f"labelled {given}, probably {likelier}: {suspicion:.0%} likely to be wrong"
    return f"labelled {given}: {suspicion:.0%} likely to be wrong, and then {likelier}"


def thumbs(run: Run, rows: Rows, captions: Sequence[str]) -> list[Thumb]:
    """Pictures of store rows, with their names and what is said about each."""
    if not len(rows):
        return []
    images, aspect = run.task.canvases.take(rows)
    pixels = _whole(images.cpu(), aspect.cpu())
    names = [run.catalog.names[row] for row in rows]
    return [
        Thumb(image, text, name) for image, text, name in zip(pixels, captions, names, strict=True)
    ]


def _views_sheet(run: Run) -> Sheet:
    rows = np.concatenate([run.task.labeled, run.task.pool])[:SHOWN]
    images, aspect = run.task.canvases.take(rows)
    images, aspect = images.cpu(), aspect.cpu()
    generator = torch.Generator().manual_seed(run.seed)
    plan = strong_policy(run.config.transfer, run.base.spec.crop_pct).plan(aspect, generator)
    views = pictures(apply(images, plan, SIDE))
    note = (
        "While a network is trained, it sees each image changed anew (the strong view): cropped, "
        "mirrored, other in colour and shape. These are examples."
    )
    shown = [Thumb(view, name=run.catalog.names[r]) for view, r in zip(views, rows, strict=True)]
    return Sheet("Training images as they are changed", note, shown)


def _whole(images: Tensor, aspect: Tensor) -> NDArray[np.uint8]:
    """Canvases as pictures uint8 (B, SIDE, SIDE, 3) of their true shape."""
    return pictures(apply(images, Center(1.0).plan(aspect), SIDE))


def pictures(views: Tensor) -> NDArray[np.uint8]:
    """Views (B, 3, h, w) from 0 to 1 as uint8 (B, h, w, 3), for a page."""
    return np.asarray((views * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _copies_sheet(run: Run) -> Sheet:
    """Both images of the first pairs, side by side; the worst ones first."""
    found = sorted(run.copies.found, key=lambda p: (not p.leaks, not p.contradicts))[:SHOWN]
    where = {name: row for row, name in enumerate(run.catalog.names)}
    rows = np.array([where[name] for pair in found for name in (pair.image, pair.other)])
    images, aspect = run.store.images[rows], run.store.aspect[rows]
    pixels = _whole(torch.from_numpy(images), torch.from_numpy(aspect))
    both = np.concatenate([pixels[::2], pixels[1::2]], axis=2)
    captions = [
        f"{p.kind}: {p.image} ({p.split}, {p.label or 'unlabelled'}) of {p.other} "
        f"({p.other_split}, {p.other_label or 'unlabelled'})"
        for p in found
    ]
    note = (
        "The same image twice: first across splits, then under two labels, then within a split. "
        "All are in duplicates.csv."
    )
    return Sheet("Copies", note, [Thumb(i, text) for i, text in zip(both, captions, strict=True)])

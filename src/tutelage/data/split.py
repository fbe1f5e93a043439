"""The role of each image: drawn once from a seed, pinned in the run folder, never redrawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.data.catalog import Catalog
from tutelage.data.columns import open_parquet, undamaged
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_parquet
from tutelage.system.words import counted

ROLES = ("labeled", "unlabeled", "val", "test", "unused")


@dataclass(frozen=True, eq=False)
class Split:
    """The role of each of a catalog's N images.

    Unreadable images, and val or test images without a label, are "unused".
    """

    roles: NDArray[np.str_]  # (N,), each one of ``ROLES``
    labels: NDArray[np.int32]  # (N,) what training may see: the class of labeled and val, else -1
    truth: NDArray[np.int32]  # (N,) the class if it is known: for evaluation and report alone
    warnings: tuple[str, ...] = ()  # what the draw could not do as asked

    def indices(self, role: str) -> NDArray[np.intp]:
        """The catalog indices of one of ``ROLES``, ascending; TutelageError if it is none."""
        if role not in ROLES:
            raise TutelageError(f"unknown role {role!r}; the roles are {', '.join(ROLES)}")
        return np.flatnonzero(self.roles == role)


def make_split(
    catalog: Catalog,
    readable: NDArray[np.bool_],
    *,
    labels_per_class: int | None,
    limit: int | None,
    seed: int,
    labels_needed: bool = True,
) -> Split:
    """Draw the roles.

    The draw depends on the seed and the names alone, not on their order, and smaller draws are
    parts of larger ones: the 4 labels of a class are among its 10. Reviewed images come on top.
    Training images beyond ``labels_per_class`` join the pool, of which ``limit`` are kept; None
    keeps all. Those that are not ``readable`` (N,) become "unused". A pool alone is accepted where
    no ``labels_needed``.
    """
    known = catalog.labels >= 0
    train = (catalog.splits == "train") & readable
    roles = np.full(len(catalog), "unused", dtype="<U9")
    roles[train] = "unlabeled"
    for split in ("val", "test"):
        roles[(catalog.splits == split) & readable & known] = split
    warnings = []
    for name, kept in _draw_labels(catalog, train, labels_per_class, seed):
        roles[kept] = "labeled"
        if labels_needed and len(kept) < (labels_per_class or 1):
            asked = f" of the {labels_per_class} asked for" if labels_per_class else ""
            doom = "" if len(kept) else ", so it cannot be learned; label some or remove the class"
            warnings.append(
                f"class {name} has {len(kept)} readable labelled training images{asked}{doom}"
            )
    if labels_needed:
        check_labels(catalog, catalog.labels[roles == "labeled"])
    elif not train.any():
        raise TutelageError(
            "there are no images to learn from; put some into unlabeled/ or train/<class>/, or "
            "into a manifest without the split val or test"
        )
    pool = np.flatnonzero(roles == "unlabeled")
    roles[pool] = "unused"
    roles[_draw(catalog.names, pool, limit, f"{seed}/pool")] = "unlabeled"
    return _split(roles, catalog, tuple(warnings))


def _draw_labels(
    catalog: Catalog, train: NDArray[np.bool_], count: int | None, seed: int
) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """The name of each class and its images that stay labelled: those drawn and those reviewed."""
    reviewed = np.array([name in catalog.reviewed for name in catalog.names], dtype=bool)
    for label, name in enumerate(catalog.classes):
        of_class = train & (catalog.labels == label)
        drawn = _draw(catalog.names, np.flatnonzero(of_class), count, f"{seed}/labels")
        yield name, np.union1d(drawn, np.flatnonzero(of_class & reviewed))


def save_split(split: Split, catalog: Catalog, path: Path) -> None:
    """Pin the split as Parquet, atomically; labels and truth are class names or null."""
    names = np.array([*catalog.classes, None], dtype=object)  # index -1 is the null
    columns = {
        "image": list(catalog.names),
        "role": split.roles.tolist(),
        "label": names[split.labels].tolist(),
        "truth": names[split.truth].tolist(),
    }
    write_parquet(path, columns)


def load_split(
    path: Path,
    catalog: Catalog,
    readable: NDArray[np.bool_],
    mend: str = "restore the data, or start anew with another --out folder",
) -> Split:
    """Read what ``save_split`` wrote; ``mend`` says what to do where the data has changed."""
    with undamaged(path):
        table = open_parquet(path).read()
        table.validate(full=True)
        names, roles, truth = (table[name].to_pylist() for name in ("image", "role", "truth"))
    if {*map(type, names)} - {str} or {*roles} - {*ROLES}:
        raise TutelageError(
            f"{path} is damaged: an image without a name, or with a role that is none of "
            f"{', '.join(ROLES)}; restore it, or start anew with another --out folder"
        )
    rows = {name: row for row, name in enumerate(names)}
    added, gone = set(catalog.names) - rows.keys(), rows.keys() - set(catalog.names)
    if added or gone:
        raise TutelageError(
            f"the images changed since {path} was drawn: {len(added)} new, {len(gone)} gone "
            f"(first: {min(added | gone)}); {mend}"
        )
    order = [rows[name] for name in catalog.names]
    index = {name: i for i, name in enumerate(catalog.classes)} | {None: -1}
    changed = catalog.labels != [index.get(truth[row], -2) for row in order]
    pinned = np.array([roles[row] for row in order], dtype="<U9")
    lost = (pinned != "unused") & ~readable
    for rows_of, what in ((changed, "the labels of {} changed"), (lost, "{} became unreadable")):
        if rows_of.any():
            count = counted(int(rows_of.sum()), "image")
            first = catalog.names[int(rows_of.argmax())]
            raise TutelageError(
                f"{what.format(count)} since {path} was drawn (first: {first}); {mend}"
            )
    return _split(pinned, catalog)


def folds(labels: ArrayLike, k: int, seed: int) -> NDArray[np.intp]:
    """Deal images of labels (n,) to k stratified folds of nearly equal size, ids (n,) from 0.

    A class with fewer than k images is spread over as many folds as it has images; the class of a
    single image is missing from what that image's fold trains on.
    """
    classes = np.asarray(labels)
    shuffled = np.random.default_rng(seed).permutation(len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    ids = np.empty(len(classes), dtype=np.intp)
    ids[by_class] = np.arange(len(classes)) % k  # dealt on from class to class: equal sizes
    return ids


def _split(roles: NDArray[np.str_], catalog: Catalog, warnings: tuple[str, ...] = ()) -> Split:
    seen = np.isin(roles, ("labeled", "val"))
    labels = np.where(seen, catalog.labels, -1).astype(np.int32)
    return Split(roles, labels, catalog.labels.copy(), warnings)


def check_labels(catalog: Catalog, labels: NDArray[np.int32] | None = None) -> None:
    """Refuse labels (n,) of fewer than two classes; by default all of train, read or not."""
    if labels is None:
        labels = catalog.labels[catalog.splits == "train"]
    classes = {*labels.tolist()} - {-1}
    if len(classes) < 2:
        found = ", ".join(catalog.classes[i] for i in classes) or "none"
        mend = (
            "Label images of another class, too: tutelage review opens the page again"
            if catalog.reviewed
            else "Put images into train/<class>/, fill in the manifest's label column, or label "
            "some with tutelage suggest DATA --budget N --classes A,B --out S and give --decisions "
            "S"
        )
        beside = "".join(f". {warning}" for warning in catalog.warnings)
        raise TutelageError(
            "labelled training images of at least 2 classes are needed; found: "
            f"{found}. {mend}{beside}"
        )


def _draw(
    names: tuple[str, ...], members: NDArray[np.intp], count: int | None, salt: str
) -> NDArray[np.intp]:
    """Return ``count`` members (None = all), those whose salted names hash lowest."""
    if count is None or count >= len(members):
        return members

    def rank(i: np.intp) -> bytes:
        text = f"{salt}/{names[i]}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=16).digest()

    return np.sort(np.array(sorted(members, key=rank)[:count], dtype=np.intp))

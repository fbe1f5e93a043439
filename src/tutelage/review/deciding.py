"""The decisions that a page asks for: checked, saved, refused, taken back. Imports no torch.

A request that is refused changes nothing. One that was saved and is sent again, because its answer
was lost, changes nothing either.
"""

from __future__ import annotations

import threading
from typing import Any

from starlette.exceptions import HTTPException

from tutelage.data.catalog import why_no_class
from tutelage.data.decisions import Decision, Decisions
from tutelage.review.items import Items, said

AT_ONCE = 1000  # images in one request


class Deciding:
    """What one start of the server decided, on the items that it shows."""

    def __init__(self, items: Items, decisions: Decisions) -> None:
        self._items = items
        self._decisions = decisions
        self._file = str(decisions.path.resolve())
        self._lock = threading.Lock()  # one request at a time
        # What each key of this start decided, the latest last: about one image or several, taken
        # back as one. The label is None also where each image keeps the one that it is shown with.
        self._steps: list[dict[str, Any]] = []
        made = (d.label for d in decisions.standing.values() if d.label is not None)
        # A page's keys must not change their meaning: a class stays until the server ends.
        self.classes = [*dict.fromkeys([*items.classes, *made])]

    def progress(self) -> dict[str, Any]:
        """How many images are decided and labelled, where that is saved, and the classes."""
        standing = self._decisions.standing.values()
        return {
            "file": self._file,
            "decided": len(standing),
            "labelled": sum(decision.label is not None for decision in standing),
            "classes": [*self.classes],
        }

    def described(self, items: Any) -> list[dict[str, Any]]:
        """Some items as the page gets them."""
        standing = self._decisions.standing
        return [
            self._items.describe(item, standing.get(self._items.name(item)))
            for item in self._known(items)
        ]

    def _known(self, items: Any) -> list[int]:
        if not (isinstance(items, list) and 0 < len(items) <= AT_ONCE):
            raise HTTPException(400, f"ids must be 1 to {AT_ONCE} numbers")
        if not all(type(item) is int and 0 <= item < len(self._items) for item in items):
            raise HTTPException(400, f"an id is a number from 0 to {len(self._items) - 1}")
        return items

    def take(self, body: dict[str, Any]) -> dict[str, Any]:
        """Make the decision of a request, or take the last one back.

        The answer is 400 if it is no decision, and 409 if it was made about what is no longer so.
        """
        if body.get("file") != self._file:  # its numbers may be those of other images
            raise HTTPException(409, "this page is of another review; reload it")
        with self._lock:
            if body.get("action") == "undo":
                undone = self._undo()
                items = undone["ids"] if undone else []
            else:
                undone, items = None, self._known(body.get("ids"))
                wanted = [self._wanted(item, body) for item in items]
                self._save(self._missing(wanted, body.get("before")), body)
            described = self.described(items) if items else []
            return {"items": described, "undone": undone, **self.progress()}

    def _wanted(self, item: int, body: dict[str, Any]) -> Decision:
        """The decision about one of a request's images."""
        action, name, shown = body.get("action"), self._items.name(item), self._items.shown(item)
        if action == "reject":
            return Decision(name, "reject", None)
        if action == "accept" and shown is None:
            raise HTTPException(400, "the image has no label to accept")
        if action not in ("accept", "relabel"):
            raise HTTPException(400, "action must be accept, relabel, reject or undo")
        named = shown if action == "accept" else body.get("label")
        label = self._class(named, new=body.get("new") is True)
        made = label not in self._items.catalog.classes
        return Decision(name, "accept" if label == shown else "relabel", label, new=made)

    def _class(self, label: Any, *, new: bool) -> str:
        """A label; refused if it is no class, unless it is to become a ``new`` one and can."""
        if not isinstance(label, str) or not (new or label in self.classes):
            raise HTTPException(400, "label must be one of the classes")
        if label not in self.classes and (problem := why_no_class(label, self.classes)):
            raise HTTPException(400, problem)
        return label

    def _missing(self, wanted: list[Decision], before: Any) -> list[Decision]:
        """Those that are not saved yet; refused if another window decided otherwise meanwhile.

        ``before`` is what the page knew about each image when it was decided.
        """
        if not (isinstance(before, list) and len(before) == len(wanted)):
            raise HTTPException(400, "before must say what was decided about each image")
        standing, missing = self._decisions.standing, []
        for decision, known in zip(wanted, before, strict=True):
            stands = standing.get(decision.image)
            if said(stands) == known:
                missing.append(decision)
            elif stands != decision:
                now = "undecided again" if stands is None else stands.label or "of no use"
                raise HTTPException(
                    409,
                    f"another window decided meanwhile that {decision.image} is {now}; "
                    "decide again to change that",
                )
        return missing

    def _save(self, decisions: list[Decision], body: dict[str, Any]) -> None:
        ids: list[int] = []  # those that are on the disk
        new = body.get("new") is True
        for decision in decisions:
            self._decisions.decide(decision)
            if not ids:  # now, since the next one may find the disk full
                step = {"action": body["action"], "label": body.get("label"), "new": new}
                self._steps.append({**step, "ids": ids})
            ids.append(self._items.by_name[decision.image])
            if decision.label is not None and decision.label not in self.classes:
                self.classes.append(decision.label)

    def _undo(self) -> dict[str, Any] | None:
        """Take back the last step, or the last decision of an earlier start; None without one."""
        if self._steps:
            left = self._steps[-1]["ids"]
            step = {**self._steps[-1], "ids": [*left]}
            while left:
                self._decisions.undo(self._items.name(left[-1]))
                left.pop()
            self._steps.pop()
            return step
        if (earlier := self._decisions.undo()) is None:
            return None
        ids = [i for i in [self._items.by_name.get(earlier.image)] if i is not None]
        return {"action": earlier.action, "label": earlier.label, "new": earlier.new, "ids": ids}

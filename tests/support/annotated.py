"""What other tools write about labelled images, as short as they can be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
{}
</annotations>
"""


def write_exports(train: Path, place: Path) -> None:
    """Write what docs/labels.md reads, about the images of class folders ``train/<class>/*``."""
    images = sorted(train.glob("*/*"))
    names = [path.relative_to(train.parent).as_posix() for path in images]
    labels = [path.parent.name for path in images]
    tasks = [
        {"data": {"image": f"/data/local-files/?d={name}"}, "annotations": [_choice(label)]}
        for name, label in zip(names, labels, strict=True)
    ]
    (place / "project.json").write_text(json.dumps(tasks))
    tagged = (
        f'<image id="{number}" name="{name}" width="9" height="9"><tag label="{label}" /></image>'
        for number, (name, label) in enumerate(zip(names, labels, strict=True))
    )
    (place / "annotations.xml").write_text(CVAT.format("\n".join(tagged)))
    classes = sorted({*labels})
    (place / "coco.json").write_text(
        json.dumps(
            {
                "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
                "annotations": [
                    {"id": n, "image_id": n, "category_id": classes.index(label)}
                    for n, label in enumerate(labels)
                ],
                "categories": [{"id": n, "name": name} for n, name in enumerate(classes)],
            }
        )
    )
    for name in ("imagenet", "export"):
        shutil.copytree(train, place / name)


def _choice(label: str) -> dict[str, object]:
    value = {"choices": [label]}
    result = {"from_name": "choice", "to_name": "image", "type": "choices", "value": value}
    return {"result": [result], "was_cancelled": False}

"""A folder with a page that runs an exported model in the browser, for any plain web server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tutelage import pages
from tutelage.deploy.answers import read_threshold
from tutelage.deploy.find import exported_file
from tutelage.deploy.onnxruntime_web import runtime_files
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.system.files import is_taken, new_folder

# Of tutelage/pages/serve; it shares page.css, pictures.js and cards.js with the page of `serve`.
PARTS = ("here.js", "model.js", "camera.js", "pixels.js", "pictures.js", "cards.js", "page.css")
MODEL = "model.onnx"


def export_page(model: Path, folder: Path, *, threshold: str | None) -> dict[str, Any]:
    """Write the page for a model's exported file; ``tutelage.api.export`` has the arguments."""
    exported = exported_file(model)
    opened = OnnxModel(exported)
    least = opened.decision_threshold
    if threshold is not None:
        least = read_threshold(threshold, opened.classes)
    if is_taken(folder):
        raise TutelageError(
            f"{folder} is there already and not empty; choose another folder for --web, or remove "
            "it yourself"
        )
    runtime = runtime_files()
    description = {
        "classes": opened.classes,
        "files": {"onnx": MODEL},
        "unknown_threshold": opened.unknown_threshold,
        "decision_threshold": least,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as building:
        (building / "index.html").write_text(pages.render("serve/here.html.j2"), encoding="utf-8")
        for name in PARTS:
            (building / name).write_text(pages.read(f"serve/{name}"), encoding="utf-8")
        shutil.copyfile(exported, building / MODEL)
        text = json.dumps(description, indent=2, ensure_ascii=False)
        (building / "page.json").write_text(text + "\n", encoding="utf-8")
        (building / "onnxruntime").mkdir()
        for name, content in runtime.items():
            (building / "onnxruntime" / name).write_bytes(content)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"path": str(folder), "model": str(exported), "bytes": size}

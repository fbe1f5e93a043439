"""A folder with a page that runs an exported model in the browser, for any plain web server.

onnxruntime-web runs the model. Its release is fetched once from the npm registry, as the one
archive that npm itself would fetch, and kept in the cache folder; its checksum is compared each
time that it is used.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import onnxruntime

from tutelage import pages
from tutelage.deploy.answers import read_threshold
from tutelage.deploy.find import exported_file
from tutelage.deploy.images import download
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.system.files import cache_folder, is_taken, new_folder, write_atomically

# Of tutelage/pages/serve; it shares page.css, pictures.js and cards.js with the page of `serve`.
PARTS = ("here.js", "model.js", "camera.js", "pixels.js", "pictures.js", "cards.js", "page.css")
MODEL = "model.onnx"
VERSION = "1.30.0"
INTEGRITY = (  # the registry's "dist.integrity" of this release
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
REGISTRY = "https://registry.npmjs.org"
DOWNLOAD_S = 900  # 33 MB over a slow line
# File in the archive's ``dist`` -> what it is called beside a page: browsers refuse scripts that a
# web server does not call so, and not every server knows .mjs.
SCRIPTS = {
    "ort.wasm.min.mjs": "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")  # the archive has none; the pip package has them


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


def runtime_files() -> dict[str, bytes]:
    """Name -> content of the files that a page needs, their licences among them."""
    with tarfile.open(fileobj=io.BytesIO(_archive()), mode="r:gz") as archive:
        members = {name: archive.extractfile(f"package/dist/{name}") for name in SCRIPTS}
        files = {SCRIPTS[name]: file.read() for name, file in members.items() if file}
    licences = Path(onnxruntime.__file__).parent
    return files | {name: (licences / name).read_bytes() for name in LICENCES}


def kept_archive() -> Path:
    """Where the archive is kept, under the name that ``npm pack`` gives it."""
    return cache_folder() / f"onnxruntime-web-{VERSION}.tgz"


def _archive() -> bytes:
    kept = kept_archive()
    if kept.is_file():
        return _release(kept.read_bytes(), f"{kept} is", "delete it, and repeat the command")
    registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
    url = f"{registry}/onnxruntime-web/-/{kept.name}"
    try:
        fetched = download(url, DOWNLOAD_S)
    except OSError as error:
        raise TutelageError(
            f"onnxruntime-web {VERSION}, which runs the model in the browser, is missing ({url}: "
            f"{error}); where there is a network, run npm pack onnxruntime-web@{VERSION}, and put "
            f"the file that it writes into {kept.parent}"
        ) from error
    mend = "set NPM_CONFIG_REGISTRY to a registry that has it"
    content = _release(fetched, f"what {url} sends is", mend)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, content)
    return content


def _release(content: bytes, what: str, mend: str) -> bytes:
    """The archive, unless its checksum is another than the release's."""
    checksum = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if f"sha512-{checksum}" != INTEGRITY:
        raise TutelageError(
            f"{what} not onnxruntime-web {VERSION}, or damaged: its checksum is another; {mend}"
        )
    return content

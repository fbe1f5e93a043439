"""The release of onnxruntime-web that runs exported models in a browser.

It is fetched once from the npm registry, as the one archive that npm itself would fetch, and kept
in the cache folder. Its checksum is compared each time that it is used.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
from pathlib import Path

import onnxruntime

from tutelage.deploy.images import download
from tutelage.system.errors import TutelageError
from tutelage.system.files import cache_folder, write_atomically

VERSION = "1.30.0"
INTEGRITY = (  # the registry's "dist.integrity" of this release
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
REGISTRY = "https://registry.npmjs.org"
DOWNLOAD_S = 900  # 33 MB over a slow line
# Browsers refuse scripts that a web server does not call so, and not every server knows .mjs.
SCRIPTS = {
    "ort.wasm.min.mjs": "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
"""File in the archive's ``dist`` -> what it is called beside a page."""
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")  # the archive has none; the pip package has them


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
        content = kept.read_bytes()
        if not _is_release(content):
            raise TutelageError(
                f"{kept} is not onnxruntime-web {VERSION}, or damaged: its checksum is another; "
                "delete it, and repeat the command"
            )
        return content
    content = _fetched(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, content)
    return content


def _fetched(kept: Path) -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
    url = f"{registry}/onnxruntime-web/-/{kept.name}"
    try:
        content = download(url, DOWNLOAD_S)
    except OSError as error:
        raise TutelageError(
            f"onnxruntime-web {VERSION}, which runs the model in the browser, is missing ({url}: "
            f"{error}); where there is a network, run npm pack onnxruntime-web@{VERSION}, and put "
            f"the file that it writes into {kept.parent}"
        ) from error
    if not _is_release(content):
        raise TutelageError(
            f"what {url} sends is not onnxruntime-web {VERSION}: its checksum is another; set "
            "NPM_CONFIG_REGISTRY to a registry that has it"
        )
    return content


def _is_release(content: bytes) -> bool:
    checksum = base64.b64encode(hashlib.sha512(content).digest()).decode()
    return f"sha512-{checksum}" == INTEGRITY

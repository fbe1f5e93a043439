import dataclasses
import sys
from pathlib import Path

import pytest
import timm
import torch

from tutelage.system.embedded import EMBEDDED, STUDENT, embedded_file, load_embedded
from tutelage.system.errors import TutelageError

PARAMETERS = {
    "tf_efficientnet_lite0": 4_652_008,
    "tf_efficientnet_lite1": 5_416_680,
    "tf_efficientnet_lite2": 6_092_072,
}


def installed(architecture: str) -> Path:
    path = embedded_file(architecture)
    if path is None:
        pytest.skip(f"the weights of {architecture} are not installed")
    return path


@pytest.mark.parametrize("architecture", EMBEDDED)
def test_weights_load_strictly_and_every_tensor_is_used(architecture: str) -> None:
    model = timm.create_model(architecture)
    state = load_embedded(architecture, installed(architecture), model.state_dict())
    model.load_state_dict(state, strict=True)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[architecture]


def test_batch_norm_statistics_fit_the_convolutions_they_were_put_behind() -> None:
    # Strict loading cannot see two tensors of one shape swapped; the statistics of real activations
    # can: on noise of the training images' spread, the recorded deviations are of the right order.
    model = timm.create_model(STUDENT).eval()
    names = model.state_dict()
    model.load_state_dict(load_embedded(STUDENT, installed(STUDENT), names))
    seen = {}
    for name in ("blocks.2.1", "blocks.4.2", "blocks.5.3"):
        norm = model.get_submodule(name).bn2
        norm.register_forward_pre_hook(
            lambda module, args, name=name: seen.update(
                {name: (args[0].mean((0, 2, 3)), module.running_mean)}
            )
        )
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 14, 14, generator=generator) * 2 - 1
    with torch.no_grad():
        model(torch.nn.functional.interpolate(coarse, size=224, mode="bicubic"))
    for name, (found, recorded) in seen.items():
        agreement = torch.corrcoef(torch.stack([found, recorded]))[0, 1]
        assert agreement > 0.5, name


def test_wrong_checksum_is_refused_before_reading(tmp_path: Path) -> None:
    source = installed(STUDENT)
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    altered = tmp_path / source.name
    altered.write_bytes(content)
    with pytest.raises(TutelageError, match=r"checksum .*expected 57934424.*reinstall"):
        load_embedded(STUDENT, altered, ())


def test_the_package_is_located_without_importing_it() -> None:
    installed(STUDENT)
    assert EMBEDDED[STUDENT].module not in sys.modules


def test_other_architectures_and_missing_packages_have_no_embedded_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert embedded_file("resnet18") is None
    missing = dataclasses.replace(EMBEDDED[STUDENT], module="no_such_package_here")
    monkeypatch.setitem(EMBEDDED, "x", missing)
    assert embedded_file("x") is None

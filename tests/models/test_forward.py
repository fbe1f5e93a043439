import copy

import pytest
import tiny
import torch

from tutelage.models.classifier import Classifier
from tutelage.models.forward import Forward
from tutelage.models.zoo import create, cut


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    model = create(
        "tf_efficientnet_lite0", ["a", "b", "c"], canvas=64, input_size=64, weights="none"
    )
    return cut(model, 4, neck=24).eval()


@pytest.fixture(scope="module")
def ort(model: Classifier) -> tuple[Forward, Forward]:
    forwards = Forward(model, "logits"), Forward(model, "features")
    for forward in forwards:
        assert forward.backend == "onnxruntime"  # on a CPU
        forward.batch = 3
    return forwards


def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no model can be exported."""

    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("unsupported operator")

    monkeypatch.setattr("tutelage.models.forward.trace", broken)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (33, 65), (128, 40)])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnxruntime_equals_torch(
    model: Classifier, ort: tuple[Forward, Forward], size: tuple[int, int], batch: int
) -> None:
    x = images(batch, 3, *size)
    logits, features = (forward(x) for forward in ort)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(features, model.features(x), atol=1e-4, rtol=1e-4)


def test_no_images_give_empty_outputs(ort: tuple[Forward, Forward]) -> None:
    logits, features = (forward(images(0, 3, 64, 64)) for forward in ort)
    assert logits.shape == (0, 3)
    assert features.shape == (0, 24)


def test_what_cannot_be_exported_runs_in_torch(
    model: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_export(monkeypatch)
    x = images(2, 3, 64, 64)
    logits, features = Forward(model), Forward(model, "features")
    assert logits.backend == features.backend == "torch"
    with torch.no_grad():
        torch.testing.assert_close(logits(x), model(x))
        torch.testing.assert_close(features(x), model.features(x))
    vit = create("test_vit", ["a", "b"], canvas=64, input_size=64, weights="none")
    assert Forward(vit)(images(0, 3, 64, 64)).shape == (0, 2)


def test_a_full_disk_is_no_reason_for_other_numbers(
    model: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "model.onnx")

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(OSError, match="No space left"):
        Forward(model)


# --- known silent bugs


def test_forward_is_an_evaluation_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny.batches(1)[0].images
    for backend in ("onnxruntime", "torch"):
        if backend == "torch":
            without_export(monkeypatch)
        model = tiny.classifier().train()
        model.set_noise(0.5, 0.0)
        before = copy.deepcopy(model.state_dict())
        expected = copy.deepcopy(model).eval()(images)
        forward = Forward(model)
        assert forward.backend == backend
        for _again in range(2):
            found = forward(images)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
            assert not found.requires_grad
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), f"the snapshot changed {name}"
        with torch.no_grad():
            model.head.weight.add_(1.0)
        torch.testing.assert_close(forward(images), expected, atol=1e-4, rtol=1e-4)

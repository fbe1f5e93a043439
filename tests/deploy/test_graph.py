import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from deployed import picture, small_model
from PIL import Image

from tutelage.augment import Center
from tutelage.augment.resample import center_view
from tutelage.data.open import read_catalog
from tutelage.data.store import open_store
from tutelage.deploy.graph import Deployed, squash
from tutelage.heads.bank import look
from tutelage.models.classifier import Classifier
from tutelage.models.zoo import create, cut
from tutelage.training.loader import Canvases

SIZES = [(48, 48), (80, 120), (120, 80), (1, 70), (70, 1), (20, 30), (9, 7), (1, 1), (301, 203)]


@pytest.fixture(scope="module")
def model() -> Classifier:
    return small_model(["a", "b", "c"], neck=None, temperature=1.5)


@pytest.mark.parametrize("size", SIZES)
def test_squash_is_pillows_within_a_grey_level(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR))
    found = squash(torch.tensor(image)[None], 48)[0].numpy()
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert found.dtype == np.uint8


def test_squash_keeps_an_image_of_the_canvas_size() -> None:
    noise = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    assert torch.equal(squash(noise, 48), noise)


@pytest.mark.parametrize("size", SIZES)
def test_same_probabilities_as_through_the_store(model: Classifier, size: tuple[int, int]) -> None:
    image = picture(*size)
    canvas = Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR)
    aspect = torch.tensor([size[1] / size[0]])
    view = center_view(torch.tensor(np.asarray(canvas))[None], aspect, 40, model.spec.crop_pct)
    with torch.no_grad():
        expected = torch.softmax(model(view) / 1.5, dim=1)
        found, energy, features = Deployed(model)(torch.tensor(image)[None])
        by_hand = -model(view).exp().sum(dim=1).log()
        seen = model.features(view)
    torch.testing.assert_close(features, seen, atol=3e-2, rtol=0)
    torch.testing.assert_close(energy, by_hand, atol=3e-2, rtol=0)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def test_temperature_is_used(model: Classifier) -> None:
    image = torch.tensor(picture(50, 60))[None]
    hot = Deployed(model)
    hot.spec = dataclasses.replace(model.spec, temperature=50.0)
    (sharp, before, _), (flat, after, _) = Deployed(model)(image), hot(image)
    assert sharp.max() > flat.max() + 0.05
    torch.testing.assert_close(flat.sum(1), torch.ones(1))
    assert torch.equal(before, after)  # a threshold on energies outlives a new temperature


@pytest.mark.parametrize("size", [39, 40, 41, 64])
def test_constant_padding_changes_nothing(size: int) -> None:
    torch.manual_seed(0)
    model = create(
        "tf_efficientnet_lite0", ["a", "b"], canvas=48, input_size=size, weights="none"
    ).eval()
    deployed = Deployed(model)
    assert any(type(m).__name__ == "Conv2dSame" for m in model.modules())
    assert any(type(m).__name__ == "_Padded" for m in deployed.modules())
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(deployed.model(x)[1], model.features(x))


def test_the_snapshot_does_not_touch_the_model(model: Classifier) -> None:
    live = cut(create("test_efficientnet", ["a"], canvas=32, weights="none"), 2, neck=4).train()
    before = {name: t.clone() for name, t in live.state_dict().items()}
    Deployed(live)
    assert live.training
    assert all(p.requires_grad for p in live.parameters())
    assert all(torch.equal(t, before[name]) for name, t in live.state_dict().items())


# --- known silent bugs


def test_training_and_export_see_the_same_view(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = [(60, 90), (90, 60), (40, 40), (33, 100)]
    pictures = [tiny.textured_image(*shape, rng) for shape in shapes]
    for i, pixels in enumerate(pictures):
        folder = tmp_path / "resize" / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        tiny.Image.fromarray(pixels).save(folder / f"{i}.png")
    catalog = read_catalog(tmp_path / "resize")
    store = open_store(catalog, canvas=48, cache=tmp_path / "cache")
    data = Canvases(store, np.arange(4), tiny.CPU)
    model = tiny.classifier(canvas=48, crop_pct=0.8)
    evaluated = tiny.Recorder()
    look(data, np.arange(4), Center(0.8), evaluated, 32)
    deployed = Deployed(model)
    exported = tiny.Recorder()
    deployed.model.model = exported
    order = [int(name.split("/")[-1].split(".")[0]) for name in catalog.names]
    for position, number in enumerate(order):
        deployed(torch.from_numpy(pictures[number])[None])
        gap = (exported.seen[-1][0] - evaluated.seen[0][position]).abs()
        assert float(gap.max()) < 2.5 / 255, shapes[number]

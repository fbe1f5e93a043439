from pathlib import Path

import numpy as np
import onnx
import pytest
from answering import write_model
from PIL import Image, ImageFilter

from tutelage.data.decode import UnreadableImage
from tutelage.deploy.images import Picture
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.watch.look import COMPONENTS, MEASURES, _projected, check_features, look, measure


def unreadable() -> np.ndarray:
    raise UnreadableImage("the file is empty")


def plain(name: str, colour: tuple[int, int, int]) -> Picture:
    return Picture(name, lambda: np.full((6, 4, 3), colour, np.uint8))


def test_each_readable_picture_is_seen_in_order(tmp_path: Path) -> None:
    model = OnnxModel(write_model(tmp_path / "m.onnx", threshold=0.5))
    given = [
        plain("red", (255, 0, 51)),
        Picture("broken", unreadable),
        plain("green", (0, 204, 0)),
    ]
    seen, readable, skipped = look(model, given)
    assert readable.tolist() == [0, 2]
    assert skipped == [("broken", "the file is empty")]
    assert seen["predicted"].tolist() == [0, 1]
    np.testing.assert_allclose(seen["confidence"], [1, 0.8])
    np.testing.assert_allclose(seen["energy"], [0.2, 0], atol=1e-6)
    np.testing.assert_array_equal(seen["pixels"][0], measure(given[0].pixels(), 8))
    assert seen["features"].shape == (2, COMPONENTS)
    apart = np.linalg.norm(seen["features"][0].astype(float) - seen["features"][1])
    assert apart == pytest.approx(np.linalg.norm([1, -0.8, 0.2]), rel=0.2)


def test_the_projection_is_the_same_for_ever() -> None:
    """A reference that was written today is compared with what another version sees."""
    expected = [-0.125, 0.125, 0.125, -0.125]
    np.testing.assert_allclose(_projected(np.ones((1, 3)))[0, :4], expected, atol=1e-3)


def test_what_cannot_be_looked_at(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", threshold=0.5)
    with pytest.raises(TutelageError, match="none of the 1 images can be read: the file is empty"):
        look(OnnxModel(path), [Picture("broken", unreadable)])
    old = onnx.load(str(path))
    del old.graph.output[2]
    onnx.save(old, str(path))
    with pytest.raises(TutelageError, match=r"other runtimes; .*tutelage export"):
        check_features(OnnxModel(path))


SIDE = 48


def by_name(pixels: np.ndarray) -> dict[str, float]:
    return dict(zip(MEASURES, map(float, measure(pixels, SIDE)), strict=True))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Edges and a gradient, in several greys (90, 120, 3)."""
    rows, columns = np.mgrid[:90, :120]
    grey = 60 + rows // 2 + 40 * ((rows // 9 + columns // 9) % 2)
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def test_blur_lowers_sharpness_and_light_does_not(photo: np.ndarray) -> None:
    was = by_name(photo)
    soft = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(3)))
    assert by_name(soft)["sharpness"] < was["sharpness"] - 0.3
    dark = by_name((photo * 0.6).astype(np.uint8))
    assert abs(dark["sharpness"] - was["sharpness"]) < 0.05
    assert dark["brightness"] == pytest.approx(0.6 * was["brightness"], abs=1)
    assert dark["contrast"] == pytest.approx(0.6 * was["contrast"], abs=1)


def test_colours_by_hand() -> None:
    found = by_name(np.full((5, 9, 3), (200, 100, 60), dtype=np.uint8))
    assert (found["warmth"], found["tint"], found["saturation"]) == (140, -30, 140)
    assert found["brightness"] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 60, abs=1e-3)


def test_grey_and_tiny_pictures_have_finite_measures(photo: np.ndarray) -> None:
    assert [by_name(photo)[name] for name in ("warmth", "tint", "saturation")] == [0, 0, 0]
    assert np.isfinite(measure(np.zeros((1, 1, 3), np.uint8), SIDE)).all()

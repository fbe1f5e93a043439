import numpy as np
import pytest
from PIL import Image, ImageFilter

from tutelage.watch.look import MEASURES, measure

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

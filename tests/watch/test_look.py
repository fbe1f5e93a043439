from pathlib import Path

import numpy as np
import onnx
import pytest
from answering import write_model

from tutelage.data.decode import UnreadableImage
from tutelage.deploy.images import Picture
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.watch.look import COMPONENTS, _projected, check_features, look, measure


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
    assert seen.predicted.tolist() == [0, 1]
    np.testing.assert_allclose(seen.confidence, [1, 0.8])
    np.testing.assert_allclose(seen.energy, [0.2, 0], atol=1e-6)
    np.testing.assert_array_equal(seen.pixels[0], measure(given[0].pixels(), 8))
    assert seen.features.shape == (2, COMPONENTS)
    apart = np.linalg.norm(seen.features[0].astype(float) - seen.features[1])
    assert apart == pytest.approx(np.linalg.norm([1, -0.8, 0.2]), rel=0.2)
    assert len(seen.take(np.array([1]))) == 1


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
    with pytest.raises(TutelageError, match=r"an earlier version .*tutelage export"):
        check_features(OnnxModel(path))

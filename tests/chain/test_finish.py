"""What a run leaves: the end of a run does not depend on images that are lost by then."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("timm")

from tutelage.chain import finish
from tutelage.data.decode import decode
from tutelage.data.open import open_data


def test_images_that_can_be_read_no_more_do_not_stop_the_end_of_a_run(photos: Path) -> None:
    catalog = open_data(photos)[0]

    class Source:
        def read(self, row: int) -> bytes:
            if row % 2 == 0 or row in lost:
                raise OSError(5, "Input/output error")
            return catalog.source.read(row)

    lost: set[int] = set()
    others = ["test", "unused", "val"] * len(catalog)
    roles = np.array((["labeled", "unlabeled"] * 3 + others)[: len(catalog)])
    work = SimpleNamespace(
        catalog=dataclasses.replace(catalog, source=Source()),
        split=SimpleNamespace(roles=roles),
        store=SimpleNamespace(canvas=32),
    )
    found = finish.sample_images(work)
    assert [image.tobytes() for image in found] == [
        decode(catalog.source.read(row)).tobytes() for row in (1, 3, 5)
    ]
    lost.update(range(6))
    assert len(finish.sample_images(work)) > 0  # generated ones

"""The teachers that distill is given."""

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm")

from tutelage.chain.load import given_teachers
from tutelage.config import make_config
from tutelage.system.errors import TutelageError


def test_distill_takes_several_teachers_in_the_order_given(finished: Path, tmp_path: Path) -> None:
    names = [str(finished / name) for name in ("teacher", "student")]

    def given(*folders: str) -> list[Any]:
        config = make_config("distill", {"teacher": ",".join(folders)})
        return given_teachers(config)

    cuts = [[teacher.spec.cut for teacher in given(*order)] for order in (names, names[::-1])]
    assert cuts[0] == cuts[1][::-1]
    assert cuts[0][0] is None
    with pytest.raises(TutelageError, match="'nowhere' is no model folder"):
        given(names[0], "nowhere")
    other = tmp_path / "other"
    shutil.copytree(names[0], other)
    text = (other / "model.json").read_text().replace("disc", "ring")
    (other / "model.json").write_text(text)
    with pytest.raises(TutelageError, match=r"first teacher knows disc, .*other knows ring"):
        given(names[0], str(other))

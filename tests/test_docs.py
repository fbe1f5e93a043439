"""The documentation's Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = {
    f"{path.name}, block {number}": block
    for path in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S), 1)
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[name], name, "exec"), {"__name__": "docs"})
    capsys.readouterr()


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 2

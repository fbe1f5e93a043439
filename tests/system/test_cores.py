"""How many cores there are, and how OpenMP's threads wait."""

import os
import subprocess
import sys

import pytest

from tutelage.system import process as counting
from tutelage.system.process import SPINS, cores, keep_to, spin_briefly

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def test_there_are_cores() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_beside_other_work_there_are_those_that_were_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "_given", None)
    keep_to(3)
    assert cores() == 3


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ({}, {"GOMP_SPINCOUNT": SPINS}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_wait_as_the_user_says_or_else_briefly(
    given: dict[str, str], then: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    monkeypatch.setattr(os, "environ", {**environment, **given})
    spin_briefly()
    assert {name: os.environ[name] for name in NAMES if name in os.environ} == then


def test_a_command_says_so_before_torch_is_imported() -> None:
    code = """
import os, sys
from tutelage import api, cli
api.teachers = lambda **_: sys.exit(f"{os.environ.get('GOMP_SPINCOUNT')} {'torch' in sys.modules}")
cli.main(["teachers"])
"""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == f"{SPINS} False"

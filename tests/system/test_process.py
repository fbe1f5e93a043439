"""How many cores there are, how OpenMP's threads wait, and what SIGTERM ends."""

import ctypes
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from tutelage.system import process as counting
from tutelage.system import process as stop
from tutelage.system.process import (
    EXIT_CODE,
    SPINS,
    Terminated,
    cores,
    deferred,
    handled,
    keep_to,
    spin_briefly,
)

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


def ask() -> None:
    """What a scheduler sends."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_is_raised_at_once_and_the_old_handler_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with handled(), pytest.raises(Terminated):
        ask()
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_deferred_it_is_noted_and_waits_for_the_caller() -> None:
    with handled():
        with deferred() as asked:
            assert not asked()
            ask()
            assert asked()
        with deferred() as asked:
            assert asked()  # it is not forgotten before all has ended
    with deferred() as asked:
        assert not asked()


@pytest.mark.skipif(sys.platform != "linux", reason="locks a mutex of the C library")
def test_a_process_that_hangs_in_a_librarys_code_ends_all_the_same() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: these ones only wait
        child = os.fork()
    if child == 0:
        stop.GRACE = 0.2
        library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        with handled():
            library.pthread_mutex_lock(mutex)
            signal.setitimer(signal.ITIMER_REAL, 30)  # or it hangs for ever where this fails
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            library.pthread_mutex_lock(mutex)  # no signal ends this wait
        os._exit(0)
    time.sleep(0.5)
    os.kill(child, signal.SIGTERM)
    began = time.monotonic()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == EXIT_CODE
    assert time.monotonic() - began < 10

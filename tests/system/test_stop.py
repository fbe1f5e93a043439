import ctypes
import os
import signal
import sys
import time
import warnings

import pytest

from tutelage.system import process as stop
from tutelage.system.process import EXIT_CODE, Terminated, deferred, handled


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

"""The command line: words in, a verb of ``api`` called, its result printed.

Imports neither torch nor NumPy before a verb is called.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tutelage import api
from tutelage.cli.output import print_error, print_result
from tutelage.cli.parser import build_parser, check_words
from tutelage.system.errors import TutelageError
from tutelage.system.files import explain
from tutelage.system.process import EXIT_CODE, Terminated, handled, spin_briefly
from tutelage.system.ranks import env_int

SHARED = ("demo", "run", "transfer", "self-train", "distill", "pseudo-label")
"""Commands that several processes do together, under torchrun."""
CONTINUED = (*SHARED, "ladder", "suggest")
"""Commands that go on where they were cut off."""
ALARM = 3
"""The exit code of ``watch`` where images differ from what the model was made for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for what the user can mend, 130 and 143 for signals.

    3 is an alarm of ``watch``.
    """
    words = tuple(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not words:
        parser.print_help(sys.stderr)
        return 2
    try:
        check_words(parser, words)
    except TutelageError as error:
        print_error(str(error))
        return 2
    known, extra = parser.parse_known_args(words)
    options = vars(known)
    command = options.pop("command")
    if extra:
        print_error(
            f"tutelage {command}: {extra[0]!r} is a word too many; several values of an option are "
            "written with commas (ant,bee), and a name with spaces in quotes"
        )
        return 2
    spin_briefly()
    # The interpreter's last collection looks at every object of torch, numba and timm: seconds.
    atexit.register(gc.freeze)
    again = "; run the same command again to continue" * (command in CONTINUED)
    try:
        _check_ranks(command)
        with handled() if command in CONTINUED else nullcontext():
            return _run(command, options)
    except TutelageError as error:
        print_error(f"tutelage {command}: {error}")
        return 2
    except KeyboardInterrupt:
        print(f"\ntutelage {command}: stopped{again}", file=sys.stderr)
        return 130
    except Terminated:
        print(f"tutelage {command}: ended by SIGTERM{again}", file=sys.stderr)
        return EXIT_CODE
    except BrokenPipeError:
        return 1
    except OSError as error:
        message = explain(error, Path(options["out"]) if options.get("out") else None)
        print_error(f"tutelage {command}: {message}{again}")
        return 2


def _check_ranks(command: str) -> None:
    """Refuse to start the work of one process in several."""
    if command not in SHARED and env_int("WORLD_SIZE", 1) > 1:
        raise TutelageError(
            f"{command} is the work of one process; start it without torchrun, which is for "
            f"{', '.join(SHARED)}"
        )


def _run(command: str, options: dict[str, Any]) -> int:
    """Call the verb of a command and print what it returns; the exit code."""
    if command == "completion":
        import shtab

        print(shtab.complete(build_parser(full=True), shell=options["shell"]))
        return 0
    as_json = options.pop("json", False)
    result = getattr(api, command.replace("-", "_"))(**options)
    print_result(command, result, options, as_json=as_json)
    return ALARM if command == "watch" and result["alarms"] else 0

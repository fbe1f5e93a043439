"""The command line: words in, a verb of ``api`` called, its result printed.

Imports neither torch nor NumPy before a verb is called.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tutelage import api
from tutelage.cli.misspelt import check_words
from tutelage.cli.parser import build_parser
from tutelage.cli.settings_file import read_settings
from tutelage.system.cores import spin_briefly
from tutelage.system.errors import TutelageError
from tutelage.system.files import explain
from tutelage.system.ranks import env_int
from tutelage.system.stop import EXIT_CODE, Terminated, handled

SKIPPED_SHOWN = 20  # images that could not be read are all counted, and so many are named
SHARED = ("demo", "run", "transfer", "self-train", "distill", "pseudo-label")
"""Commands that several processes do together, under torchrun."""
CONTINUED = (*SHARED, "ladder", "suggest")
"""Commands that go on where they were cut off."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for what the user can mend, 130 and 143 for signals."""
    words = tuple(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not words:
        parser.print_help(sys.stderr)
        return 2
    try:
        check_words(parser, words)
    except TutelageError as error:
        _print_error(str(error))
        return 2
    options = vars(parser.parse_args(words))
    command = options.pop("command")
    spin_briefly()
    again = "; run the same command again to continue" * (command in CONTINUED)
    try:
        _check_ranks(command)
        with handled() if command in CONTINUED else nullcontext():
            _run(command, options)
    except TutelageError as error:
        _print_error(f"tutelage {command}: {error}", keep="\n\t")
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
        print(f"tutelage {command}: {message}{again}", file=sys.stderr)
        return 2
    return 0


def _print_error(text: str, keep: str = "") -> None:
    from tutelage.system.console import printable

    print(printable(text, keep), file=sys.stderr)


def _check_ranks(command: str) -> None:
    """Refuse to start the work of one process in several."""
    if command not in SHARED and env_int("WORLD_SIZE", 1) > 1:
        raise TutelageError(
            f"{command} is the work of one process; start it without torchrun, which is for "
            f"{', '.join(SHARED)}"
        )


def _run(command: str, options: dict[str, Any]) -> None:
    """Call the verb of a command and print what it returns."""
    if command == "completion":
        import shtab

        print(shtab.complete(build_parser(full=True), shell=options["shell"]))
        return
    if config := options.pop("config", None):
        options = {**read_settings(Path(config), command), **options}
    as_json = options.pop("json", command == "export")
    result = getattr(api, command.replace("-", "_"))(**options)
    if command == "predict":
        _print_predictions(result[0], result[1], options["out"], as_json=as_json)
    elif command == "evaluate":
        _print_figures(result, as_json=as_json)
    elif command == "bench" and not as_json:
        from tutelage.deploy.bench import describe

        print(describe(result))
    elif command == "teachers" and not as_json:
        from tutelage.models.teachers import describe as as_text

        print(as_text(result))
    elif as_json and result:  # only the lead of several processes has any
        print(json.dumps(result, indent=2))
    if command == "pseudo-label" and result and not options["quiet"]:
        counts = (
            "{images:,} images: {labelled:,} labelled, {accepted:,} of them accepted; "
            "{skipped:,} could not be read"
        ).format(**result)
        print(f"{counts}\nlabels: {Path(options['out'], 'labels')}", file=sys.stderr)


def _print_figures(figures: dict[str, Any], *, as_json: bool) -> None:
    _print_skipped([*figures["reasons"].items()])
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    low, high = figures["accuracy_ci95"]
    print(f"{figures['n']} {figures['split']} images")
    print(f"accuracy           {figures['accuracy']:.4f}  [{low:.4f}, {high:.4f}] (95%)")
    for name in ("majority", "balanced_accuracy", "macro_f1", "ece", "nll"):
        print(f"{name:<18} {figures[name]:.4f}")


def _print_skipped(reasons: Sequence[tuple[str, str]]) -> None:
    for name, reason in reasons[:SKIPPED_SHOWN]:
        _print_error(f"skipped {name}: {reason}")
    if (more := len(reasons) - SKIPPED_SHOWN) > 0:
        _print_error(f"skipped {more:,} more")


def _print_predictions(
    rows: Sequence[Any], skipped: Sequence[tuple[str, str]], out: str | None, *, as_json: bool
) -> None:
    from tutelage.deploy.answers import summary
    from tutelage.deploy.tables import as_json_lines, formula_cells
    from tutelage.system.console import printable

    if as_json and rows:
        print("\n".join(as_json_lines(rows)))
    elif out is None:
        for row in rows:
            print(f"{printable(row.image)}\t{printable(row.label)}\t{row.confidence:.4f}")
    sys.stdout.flush()  # what is said on stderr comes after the rows
    _print_skipped(skipped)
    if not rows:
        raise TutelageError("none of the images could be read")
    written = "" if out is None else f"; written to {out}"
    _print_error(summary(rows, len(skipped)) + written)
    if out is not None and Path(out).suffix == ".csv" and (count := formula_cells(rows)):
        some = f"{count:,} cells of {out} begin" if count > 1 else f"a cell of {out} begins"
        _print_error(
            f"{some} with =, +, - or @, which a spreadsheet takes for a formula: import that "
            "column as text"
        )

"""The parser, made from the verbs of ``api`` and the settings of ``config``.

A verb's signature gives its arguments, its docstring their help. ``check_words`` says what was
probably meant by a command or an option that does not exist.
"""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tutelage import api
from tutelage._version import __version__
from tutelage.config import field_type, group_fields, group_title, option
from tutelage.system.errors import TutelageError
from tutelage.system.words import nearest

VERBS: dict[str, Callable[..., Any]] = {
    name.replace("_", "-"): verb for name, verb in api.VERBS.items()
}
"""Command -> the function that it calls."""

EVERYDAY = ("demo", "run", "predict", "evaluate", "suggest", "review", "export", "serve", "watch")
"""The commands that most people need, in the order of a first project."""
HIDDEN = argparse.SUPPRESS
METAVARS = {
    "accepted": "FILE",
    "decisions": "FOLDER",
    "image_column": "COLUMN",
    "image_root": "FOLDER",
    "label_column": "COLUMN",
    "share": "I/N",
    "student_weights": "FILE",
    "track": "NAMES",
    "watch": "FOLDER",
    "web": "FOLDER",
    "weights": "FILE",
}
"""What the help calls a value, where that is not the option's own name."""


class Parser(argparse.ArgumentParser):
    """Errors are one line, and nothing is abbreviated."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", partial(argparse.HelpFormatter, max_help_position=26))
        options["allow_abbrev"] = False
        super().__init__(*args, **options)
        self._positionals.title = "arguments"

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with 2."""
        message = message.removeprefix("argument ")
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            usage = self.format_usage().removeprefix("usage: ").strip()
            message = f"{missing} is missing; expected: {usage}"
        self.exit(2, f"{self.prog}: {message}\n")


class MainParser(Parser):
    """The parser of ``tutelage`` itself, whose help lists the commands in two groups."""

    commands: dict[str, Parser]
    summaries: dict[str, str]

    def format_help(self) -> str:
        """The whole help, as text."""
        advanced = [name for name in self.commands if name not in EVERYDAY]
        width = max(map(len, self.commands))
        lines = [self.format_usage(), f"{self.description}\n"]
        for title, names in (("everyday", EVERYDAY), ("advanced", advanced)):
            lines += [f"{title}:"]
            lines += [f"  {name:<{width}}  {self.summaries[name]}" for name in names]
            lines += [""]
        lines += ["tutelage COMMAND --help shows the options of a command.\n"]
        return "\n".join(lines)


def build_parser(*, full: bool = False) -> MainParser:
    """The whole parser. The help of its commands leaves out rare settings, unless ``full``."""
    parser = MainParser(
        prog="tutelage",
        usage="tutelage COMMAND [options]",
        description="From a few labelled images and many unlabelled ones to a small, exported "
        "classifier, with figures that say how good it is.",
    )
    parser.add_argument("--version", action="version", version=f"tutelage {__version__}")
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    parser.commands, parser.summaries = subparsers.choices, {}
    common: dict[str, str] = {}  # what describes an argument first
    for verb in (VERBS["run"], VERBS["predict"], *VERBS.values()):
        common = _arguments(verb) | common
    for name, verb in VERBS.items():
        parser.summaries[name], description = _summary(verb)
        command = subparsers.add_parser(
            name,
            prog=f"tutelage {name}",
            help=_escaped(parser.summaries[name]),
            description=_escaped(description),
        )
        _add_arguments(command, verb, common | _arguments(verb))
        _add_settings(command, name, full=full)
        command.usage = _usage(command)
    summary = "a script that makes a shell complete commands and options"
    usage = f'Print {summary}: eval "$(tutelage completion bash)"'
    parser.summaries["completion"] = summary
    command = subparsers.add_parser(
        "completion", prog="tutelage completion", help=summary, description=usage
    )
    command.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"))
    return parser


def _summary(verb: Callable[..., Any]) -> tuple[str, str]:
    """The first sentence of a docstring, as one of a list, and all before its sections."""
    lead = re.split(r"\n\n(?:Args|Returns|Raises):\n", inspect.getdoc(verb) or "")[0]
    lead = lead.replace("``", "")
    first = lead.split("\n\n")[0].removesuffix(".")
    return first[:1].lower() + first[1:], lead


def _arguments(verb: Callable[..., Any]) -> dict[str, str]:
    """Argument -> its help, from a docstring's section "Args"; empty if it is for Python only."""
    section = re.search(r"\nArgs:\n(.*?)(\n\n|$)", inspect.getdoc(verb) or "", re.DOTALL)
    found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section[1] if section else "", re.M)
    return {name: _plain(text) for name, text in found}


def _plain(text: str) -> str:
    words = " ".join(text.split()).replace("``", "")
    return words.partition("In Python")[0].strip().removesuffix(".")


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # argparse fills in what follows a single one


def _add_arguments(command: Parser, verb: Callable[..., Any], help: dict[str, str]) -> None:
    """An argument for every parameter; without a default, ``out`` and keywords are options, too."""
    words = {"Data": str, "Images": Sequence[str], "Prediction": object}
    hints = typing.get_type_hints(verb, vars(api), words)
    for name, parameter in inspect.signature(verb).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD or not help[name]:
            continue
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        text, kind = help[name], _without_none(hints[name])
        if kind is bool:
            _add_flag(command, name, text, default=parameter.default)
            continue
        options = _value(name, kind, listed=not required)
        options["help"] = _escaped(text + _default(default))
        if required and name != "out" and parameter.kind is not parameter.KEYWORD_ONLY:
            command.add_argument(name, **options)
        else:
            command.add_argument(option(name), default=default, required=required, **options)
    if hints["return"] is not type(None):
        command.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_flag(command: Parser, name: str, text: str, *, default: bool) -> None:
    flag = option(f"no_{name}" if default else name)
    action = "store_false" if default else "store_true"
    text = f"do not {text}" if default else text
    command.add_argument(flag, dest=name, action=action, help=_escaped(text))


def _without_none(hint: Any) -> Any:
    """The one type of a hint such as ``Path | str | None``; a path is given as text."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(kind for kind in typing.get_args(hint) if kind not in (type(None), Path))
    return hint


def _value(name: str, kind: Any, *, listed: bool) -> dict[str, Any]:
    """How argparse reads a value of this type; options list several with commas."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"choices": parts}
    if parts and listed:
        return {"type": _list_of(parts[0]), "metavar": "A,B" if parts[0] is str else "N,N"}
    if parts:
        return {"nargs": "+", "metavar": name.upper().removesuffix("S")}
    return {"type": _reader(kind), "metavar": _metavar(name, kind)}


def _reader(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """What makes a value of a word, and says what was expected of it."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            expected = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from error

    return read


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def listed(text: str) -> list[Any]:
        return [] if text == "none" else [_reader(kind)(part) for part in text.split(",")]

    return listed


def _metavar(name: str, kind: type) -> str:
    return {int: "N", float: "X"}.get(kind) or METAVARS.get(name, name.upper())


def _default(value: Any) -> str:
    if value in (None, ""):
        return ""
    return f" (default: {value:g})" if isinstance(value, float) else f" (default: {value})"


def _usage(command: Parser) -> str:
    """What must be given; argparse would list every option."""
    words = [
        f"{action.option_strings[0]} {action.metavar}"
        if action.option_strings
        else f"{action.metavar}{' ...' * (action.nargs == '+')}"
        for action in command._actions
        if action.required
    ]
    return " ".join(["%(prog)s", *words, "[options]"])


def _add_settings(command: Parser, name: str, *, full: bool) -> None:
    """An option for every setting that a command knows."""
    known = group_fields(name)
    if not known:
        return
    groups: dict[str, argparse._ArgumentGroup] = {}
    for setting, (group, item) in known.items():
        if group not in groups:
            title = group_title(group)
            groups[group] = command.add_argument_group(title[:1].lower() + title[1:])
        choices, kind = item.metadata["choices"], field_type(setting)
        shown = full or item.metadata["everyday"]
        groups[group].add_argument(
            option(setting),
            type=_reader(kind),
            choices=choices,
            default=argparse.SUPPRESS,
            metavar=None if choices else _metavar(setting, kind),
            help=_escaped(item.metadata["help"] + _default(item.default)) if shown else HIDDEN,
        )
    command.add_argument(
        "--help-all", action=_HelpAll, nargs=0, default=HIDDEN, help="show all settings and exit"
    )


class _HelpAll(argparse.Action):
    """Print the help of a command with its rare settings."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        build_parser(full=True).commands[parser.prog.split()[-1]].print_help()
        parser.exit()


def check_words(parser: MainParser, words: Sequence[str]) -> None:
    """Refuse a command or an option that does not exist, and name the nearest one that does."""
    command = words[0]
    if command == "help":
        raise TutelageError("tutelage: write --help after a command, as in tutelage run --help")
    if command.startswith("-"):
        return
    if command not in parser.commands:
        told = _unknown(f"command {command}", command, parser.commands)
        raise TutelageError(f"tutelage: {told} (tutelage --help lists the commands)")
    known = parser.commands[command]._option_string_actions
    for word in words[1:]:
        if word == "--":
            return
        option = word.partition("=")[0]
        if _is_option(option) and option not in known:
            told = _unknown(f"option {option}", option, known)
            raise TutelageError(f"tutelage {command}: {told}")


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not word[1:].replace(".", "", 1).isdecimal()


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    """That something does not exist, and the name that was probably meant."""
    names = {name.lstrip("-"): name for name in known}
    near = nearest(word.lstrip("-").replace("_", "-"), sorted(names))
    return f"there is no {what}" + (f"; did you mean {names[near]}?" if near else "")

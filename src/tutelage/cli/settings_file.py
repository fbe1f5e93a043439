"""Settings from a file: YAML, or the config.json of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage.config import REMOVED, SETTINGS, RunConfig, group_fields
from tutelage.system.errors import TutelageError, need

GROUPS = tuple(RunConfig.__dataclass_fields__)


def read_settings(path: Path, command: str) -> dict[str, Any]:
    """The settings in a file, by name.

    They stand side by side (``minutes: 5``), in the groups of config.json, or in the config.json of
    a run as it is. Of a run made by another command, settings that ``command`` does not know are
    left out if they have their defaults.

    Raises:
        TutelageError: no such file, not YAML or JSON, or no settings in it.
        MissingExtra: a YAML file without PyYAML installed.
    """
    content = _parsed(path)
    if isinstance(content, dict) and isinstance(content.get("request"), dict):
        return _of_run(content["request"].get("settings"), command, path)
    return _flat(content, path)


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TutelageError(f"--config {path} cannot be read: {error}") from error
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TutelageError(f"--config {path} is not JSON: {error}") from error
    yaml = need("yaml", "train")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise TutelageError(f"--config {path} is not YAML: {told}") from error


def _flat(content: Any, path: Path) -> dict[str, Any]:
    """Settings by name, with groups opened and names as Python spells them."""
    if not isinstance(content, dict):
        raise TutelageError(
            f"--config {path} holds {type(content).__name__}, expected settings such as minutes: 5"
        )
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key in GROUPS and isinstance(value, dict):
            found |= _flat(value, path)
        else:
            found[str(key).replace("-", "_")] = value
    return found


def _of_run(settings: Any, command: str, path: Path) -> dict[str, Any]:
    known = group_fields(command)
    return {
        name: value
        for name, value in _flat(settings, path).items()
        if name in known or name in REMOVED or name not in SETTINGS or _is_set(name, value)
    }


def _is_set(name: str, value: Any) -> bool:
    return bool(value != SETTINGS[name][1].default)

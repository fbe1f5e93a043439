import json
from pathlib import Path
from typing import Any

import pytest

from tutelage import api, cli
from tutelage.cli import read_settings
from tutelage.config import make_config
from tutelage.system.errors import TutelageError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "minutes: 5\nlabels-per-class: 3\n"),
        ("a.yml", "data:\n  minutes: 5\n  labels_per_class: 3\n"),
        ("a.yaml", "\ufeffminutes: 5.0\nlabels_per_class: 3\n"),
        ("a.json", '{"minutes": 5, "data": {"labels_per_class": 3}}'),
    ],
)
def test_settings_stand_side_by_side_or_in_groups(name: str, text: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_settings(tmp_path / name, "run") == {"minutes": 5, "labels_per_class": 3}


def test_the_config_of_a_run_gives_its_settings(tmp_path: Path) -> None:
    config = make_config("run", {"minutes": 5.0, "alpha": 0.5})
    request = {"command": "run", "data": "photos", "settings": config.to_dict()}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"request": request, "plan": {"minutes": 9}}))
    assert make_config("run", read_settings(path, "run")) == config
    assert "minutes" in read_settings(path, "run")
    # Another command takes what it knows; what it does not know and was set is refused.
    settings = read_settings(path, "transfer")
    with pytest.raises(TutelageError, match="'transfer' has no setting 'alpha'"):
        make_config("transfer", settings)
    assert "temperature" not in settings


def test_an_option_has_priority_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(api, "run", lambda **options: given.update(options))
    (tmp_path / "a.json").write_text('{"minutes": 5, "seed": 3}')
    words = ["run", "photos", "--config", str(tmp_path / "a.json"), "--minutes", "7"]
    assert cli.main(words) == 0
    assert given == {"data": "photos", "out": None, "quiet": False, "minutes": 7.0, "seed": 3}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "- 5", "holds list, expected settings such as minutes: 5"),
        ("a.yaml", "", "holds NoneType, expected settings"),
        ("a.yaml", "a: [", "is not YAML: "),
        ("a.json", "{", "is not JSON: "),
        ("a.json", '{"request": {}}', "holds NoneType, expected settings"),
        ("b.json", None, "cannot be read: "),
    ],
)
def test_what_is_no_settings_file_is_one_line(
    name: str, text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    assert cli.main(["run", "photos", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tutelage run: --config {path} ")
    assert said in error
    assert error.count("\n") == 1


def test_a_setting_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"minuts": 5}')
    with pytest.raises(TutelageError, match="has no setting 'minuts'; did you mean 'minutes'"):
        make_config("run", read_settings(path, "run"))

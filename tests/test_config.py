import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.config import (
    COMMANDS,
    SETTINGS,
    RunConfig,
    field_type,
    group_fields,
    make_config,
    option,
    without_effect,
)
from tutelage.system.errors import TutelageError

TABLE = {"image_column", "label_column", "image_root"}


def test_options_reach_their_group_and_defaults_are_the_dataclasses_own() -> None:
    assert make_config("run", {}) == RunConfig()
    config = make_config("run", {"seed": 3, "mix": "mixup", "rounds": 2, "alpha": 0.5})
    found = config.data.seed, config.transfer.mix, config.self_train.rounds, config.distill.alpha
    assert found == (3, "mixup", 2, 0.5)
    assert RunConfig().data.seed == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().data.seed = 1  # type: ignore[misc]


def test_every_setting_has_one_name_help_and_a_default_that_is_allowed() -> None:
    names = [name for group in RunConfig().to_dict().values() for name in group]
    assert names == list(SETTINGS)
    for name, (_, item) in SETTINGS.items():
        low, high = item.metadata["range"] or (1, 0)
        assert (low < high) == (field_type(name) is not str), name
        assert item.default in (item.metadata["choices"] or [item.default]), name
        assert item.metadata["help"], name
    for command in COMMANDS:
        known = group_fields(command)
        values = {n: getattr(getattr(RunConfig(), group), n) for n, (group, _) in known.items()}
        assert make_config(command, values) == RunConfig()


def test_each_command_knows_its_settings_only() -> None:
    known = {command: set(group_fields(command)) for command in COMMANDS}
    assert "alpha" not in known["transfer"]
    assert "threshold" not in known["distill"]
    assert known["run"] == set(SETTINGS)
    assert set(SETTINGS) - known["demo"] == TABLE
    assert set(SETTINGS) - known["ladder"] == {"track"}
    assert not {"trunk", "lr_trunk", "features", "balance"} & known["distill"]
    data = {item.name for item in dataclasses.fields(RunConfig().data)}
    strong = {"augment", "crop_scale", "num_ops", "magnitude"}
    assert known["augment"] == strong | TABLE | data - {"minutes", "track", "checkpoint_seconds"}
    assert known["suggest"] == TABLE | {
        "limit", "decisions", "duplicates", "seed", "device", "teacher", "weights", "input_size",
        "canvas", "store_gb",
    }  # fmt: skip
    with pytest.raises(TutelageError, match="'transfer' has no setting 'alpha'"):
        make_config("transfer", {"alpha": 0.5})


ALL = {"trained": True, "online": True, "student": True}
VIEW = {"num_ops": 3, "magnitude": 20, "crop_scale": 0.5}
ROUND = {"alignment": 0.2, "online": "flexmatch", "pseudo_labels": "hard", "threshold": 0.5}
RATES = {"lr_trunk": 0.1, "drop_rate": 0.5, "mix": "none"}
OFFLINE = {"trained": False, "online": False, "rounds": True}


@pytest.mark.parametrize(
    ("given", "plan", "expected"),
    [
        ({**VIEW, "augment": "center"}, ALL, sorted(VIEW)),
        ({**VIEW, "augment": "randaugment"}, ALL, []),
        *(({"online": method, "threshold": 0.5}, ALL, [])  # their threshold is fixed
          for method in ("fixmatch", "flexmatch")),
        *(({"online": method, "threshold": 0.5}, ALL, ["threshold"])
          for method in ("freematch", "softmatch", "mean-teacher")),
        ({"online": "fixmatch", "threshold": 0.5}, ALL | {"online": False}, ["threshold"]),
        ({"online": "freematch", "threshold": 0.5}, ALL | {"online": False},
         ["online", "threshold"]),
        (ROUND, ALL, []),
        (ROUND, ALL | {"rounds": False}, sorted(ROUND)),
        (RATES, OFFLINE | {"trained": True, "student": False}, []),
        (RATES, OFFLINE | {"student": True}, ["lr_trunk"]),
        (RATES, OFFLINE | {"student": False}, sorted(RATES)),
    ],
)  # fmt: skip
def test_settings_that_a_plan_does_not_read_have_no_effect(
    given: dict[str, Any], plan: dict[str, bool], expected: list[str]
) -> None:
    assert without_effect(make_config("run", given), **plan) == expected


def test_several_teachers_are_different_ones(tmp_path: Path) -> None:
    for command in COMMANDS:
        assert make_config(command, {"teacher": "a,b"}).data.teacher == "a,b"
    with pytest.raises(TutelageError, match="'b,a, a', expected different networks"):
        make_config("run", {"teacher": "b,a, a"})
    assert make_config("distill", {"teacher": "a,a"}).data.teacher == "a,a"
    odd = tmp_path / "a,a"
    odd.mkdir()
    assert make_config("run", {"teacher": odd}).data.teacher == str(odd)


def test_all_problems_are_named_at_once_with_a_suggestion() -> None:
    with pytest.raises(TutelageError) as error:
        make_config("run", {"magnitud": 1, "qqq": 1, "mix": "paint", "limit": "many"})
    for part in (
        "no setting 'magnitud'; did you mean 'magnitude'",
        "no setting 'qqq'; known: alignment, alpha",
        "mix is 'paint', expected one of none, cutmix, mixup",
        "limit is 'many'",
    ):
        assert part in str(error.value)
    with pytest.raises(TutelageError, match=r"--alpha is 2, .*; --temperature is 0, .* to 100"):
        make_config("distill", {"alpha": 2, "temperature": 0})


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [*((name, value, "") for name, value in (
        ("seed", -1), ("seed", 2**40), ("labels_per_class", 0), ("limit", -1), ("minutes", 0),
        ("input_size", 8), ("canvas", 4096), ("rounds", -1), ("alignment", 1.5),
        ("threshold", -0.1), ("alpha", float("nan")), ("drop_rate", 1.0), ("layer_decay", 0),
        ("temperature", 0), ("lr_head", -1), ("weight_decay", float("inf")), ("magnitude", 31),
        ("num_ops", 11), ("crop_scale", 0), ("crop_scale", 1.2))),
     ("limit", "5", "a whole number"), ("limit", 5.0, "a whole number"),
     ("seed", True, "a whole number"), ("alpha", "half", "a number"),
     ("teacher", 3, "text"), ("seed", None, "a whole number")],
)  # fmt: skip
def test_values_out_of_range_or_of_another_type_are_refused(
    name: str, value: Any, kind: str
) -> None:
    with pytest.raises(TutelageError, match=f"^{option(name)} is .*expected {kind}"):
        make_config("run", {name: value})


def test_whole_numbers_are_numbers_and_paths_text_that_json_can_keep() -> None:
    config = make_config("run", {"minutes": 3, "limit": None, "teacher": Path("run/teacher")})
    assert (config.data.minutes, config.data.limit) == (3, None)
    assert config.data.teacher == "run/teacher"
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    types = {name: field_type(name) for name in ("limit", "minutes", "weights", "lr_head")}
    assert types == {"limit": int, "minutes": float, "weights": str, "lr_head": float}

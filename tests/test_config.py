import dataclasses
import json
import subprocess
import sys
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


def test_defaults_are_the_dataclasses_own() -> None:
    assert make_config("run", {}) == RunConfig()


def test_options_reach_their_group() -> None:
    config = make_config("run", {"seed": 3, "mix": "mixup", "rounds": 2, "alpha": 0.5})
    assert config.data.seed == 3
    assert config.transfer.mix == "mixup"
    assert config.self_train.rounds == 2
    assert config.distill.alpha == 0.5
    assert RunConfig().data.seed == 0


def test_defaults_are_in_range() -> None:
    for command in COMMANDS:
        known = group_fields(command)
        values = {n: getattr(getattr(RunConfig(), group), n) for n, (group, _) in known.items()}
        assert make_config(command, values) == RunConfig()


def test_setting_names_are_unique_over_the_groups_and_have_help() -> None:
    groups = RunConfig().to_dict()
    names = [name for group in groups.values() for name in group]
    assert names == list(SETTINGS)
    for command, known in ((c, group_fields(c)) for c in COMMANDS):
        assert all(item.metadata["help"] for _, item in known.values()), command


def test_each_command_knows_its_groups_only() -> None:
    assert "alpha" not in group_fields("transfer")
    assert "threshold" not in group_fields("distill")
    assert set(group_fields("run")) == set(SETTINGS)
    assert set(SETTINGS) - set(group_fields("demo")) == TABLE
    assert set(SETTINGS) - set(group_fields("ladder")) == {"track"}
    assert not {"trunk", "lr_trunk", "features", "balance"} & set(group_fields("distill"))
    with pytest.raises(TutelageError, match="'transfer' has no setting 'alpha'"):
        make_config("transfer", {"alpha": 0.5})


def test_augment_knows_the_data_and_the_strong_view_only() -> None:
    strong = {"augment", "crop_scale", "num_ops", "magnitude"}
    data = {item.name for item in dataclasses.fields(RunConfig().data)} - {
        "minutes",
        "track",
        "checkpoint_seconds",
    }
    assert set(group_fields("augment")) == strong | data | TABLE


def test_suggest_knows_what_decides_which_images_and_features_there_are() -> None:
    assert set(group_fields("suggest")) == TABLE | {
        "limit", "decisions", "duplicates", "seed", "device", "teacher", "weights", "input_size",
        "canvas", "store_gb",
    }  # fmt: skip


def test_a_centre_view_reads_nothing_of_the_strong_one() -> None:
    given = {"num_ops": 3, "magnitude": 20, "crop_scale": 0.5}
    for augment, expected in (("center", sorted(given)), ("randaugment", [])):
        config = make_config("run", {**given, "augment": augment})
        assert without_effect(config, trained=True, online=True, student=True) == expected


@pytest.mark.parametrize(
    ("method", "online", "expected"),
    [("fixmatch", True, []), ("flexmatch", True, []), ("freematch", True, ["threshold"]),
     ("softmatch", True, ["threshold"]), ("mean-teacher", True, ["threshold"]),
     ("fixmatch", False, ["threshold"]), ("freematch", False, ["online", "threshold"])],
)  # fmt: skip
def test_only_online_methods_with_a_fixed_threshold_read_it(
    method: str, online: bool, expected: list[str]
) -> None:
    config = make_config("run", {"online": method, "threshold": 0.5})
    assert without_effect(config, trained=True, online=online, student=True) == expected


def test_settings_of_self_training_need_a_round() -> None:
    given = {"alignment": 0.2, "online": "flexmatch", "pseudo_labels": "hard", "threshold": 0.5}
    config = make_config("run", given)
    plan = {"trained": True, "online": True, "student": True}
    assert without_effect(config, **plan) == []
    assert without_effect(config, **plan, rounds=False) == sorted(given)


def test_what_is_not_trained_needs_no_rates() -> None:
    config = make_config("run", {"lr_trunk": 0.1, "drop_rate": 0.5, "mix": "none"})
    plan = {"online": False, "rounds": True}
    assert without_effect(config, trained=True, student=False, **plan) == []
    assert without_effect(config, trained=False, student=True, **plan) == ["lr_trunk"]
    expected = ["drop_rate", "lr_trunk", "mix"]
    assert without_effect(config, trained=False, student=False, **plan) == expected


def test_several_teachers_are_different_ones(tmp_path: Path) -> None:
    for command in COMMANDS:
        assert make_config(command, {"teacher": "a,b"}).data.teacher == "a,b"
    with pytest.raises(TutelageError, match="'b,a, a', expected different networks"):
        make_config("run", {"teacher": "b,a, a"})
    assert make_config("distill", {"teacher": "a,a"}).data.teacher == "a,a"
    odd = tmp_path / "a,a"
    odd.mkdir()
    assert make_config("run", {"teacher": odd}).data.teacher == str(odd)


def test_unknown_settings_get_a_suggestion() -> None:
    with pytest.raises(TutelageError, match="no setting 'magnitud'; did you mean 'magnitude'"):
        make_config("run", {"magnitud": 3})
    with pytest.raises(TutelageError, match="no setting 'qqq'; known: alignment, alpha"):
        make_config("run", {"qqq": 3})


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(TutelageError) as error:
        make_config("run", {"qqq": 1, "mix": "paint", "limit": "many"})
    for part in ("qqq", "mix is 'paint', expected one of none, cutmix, mixup", "limit is 'many'"):
        assert part in str(error.value)
    with pytest.raises(TutelageError, match=r"--alpha is 2, .*; --temperature is 0, .* to 100"):
        make_config("distill", {"alpha": 2, "temperature": 0})


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("seed", 2**40), ("labels_per_class", 0), ("limit", -1), ("minutes", 0),
     ("input_size", 8), ("canvas", 4096), ("rounds", -1), ("alignment", 1.5), ("threshold", -0.1),
     ("alpha", float("nan")), ("drop_rate", 1.0), ("layer_decay", 0), ("temperature", 0),
     ("lr_head", -1), ("weight_decay", float("inf")), ("magnitude", 31), ("num_ops", 11),
     ("crop_scale", 0), ("crop_scale", 1.2)],
)  # fmt: skip
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(TutelageError, match=f"^{option(name)} is .*expected"):
        make_config("run", {name: value})


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("limit", "5", "a whole number"), ("limit", 5.0, "a whole number"),
     ("seed", True, "a whole number"), ("alpha", "half", "a number"),
     ("teacher", 3, "text"), ("seed", None, "a whole number")],
)  # fmt: skip
def test_values_of_another_type_are_refused(name: str, value: Any, kind: str) -> None:
    with pytest.raises(TutelageError, match=f"^{option(name)} is .*expected {kind}"):
        make_config("run", {name: value})


def test_whole_numbers_are_numbers_and_none_is_a_default_of_none() -> None:
    config = make_config("run", {"minutes": 3, "limit": None})
    assert config.data.minutes == 3
    assert config.data.limit is None


def test_paths_become_text_that_json_can_keep() -> None:
    config = make_config("run", {"weights": Path("w.safetensors"), "teacher": Path("run/teacher")})
    assert config.data.weights == "w.safetensors"
    assert config.data.teacher == "run/teacher"
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


def test_every_number_has_a_range_and_every_word_with_choices_a_default_among_them() -> None:
    for name, (_, item) in SETTINGS.items():
        low, high = item.metadata["range"] or (1, 0)
        assert (low < high) == (field_type(name) is not str), name
        assert item.default in (item.metadata["choices"] or [item.default]), name


def test_field_types_are_plain() -> None:
    assert field_type("limit") is int
    assert field_type("minutes") is float
    assert field_type("weights") is str
    assert field_type("lr_head") is float


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().data.seed = 1  # type: ignore[misc]


def test_the_module_imports_no_torch() -> None:
    code = "import sys, tutelage.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

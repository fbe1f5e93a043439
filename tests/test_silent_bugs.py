"""The silent training bugs that are known, one test each; test_mutations.py proves the tests."""

from pathlib import Path

import pytest
import silent_checks as checks

pytest.importorskip("timm")


def test_every_trained_weight_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks.trained_weights_move(tmp_path, monkeypatch)


def test_frozen_weights_stay_and_the_head_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.frozen_weights_stay(tmp_path, monkeypatch)


def test_kd_loss_has_t_squared_and_batchmean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.kd_loss_keeps_its_scale(tmp_path, monkeypatch)


def test_distillation_step_weighs_teacher_and_labels_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.distillation_step_uses_the_loss_as_it_is(tmp_path, monkeypatch)


def test_teacher_is_called_without_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.teacher_gets_no_gradient(tmp_path, monkeypatch)


def test_kd_loss_sends_no_gradient_to_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.kd_loss_gives_the_teacher_no_gradient(tmp_path, monkeypatch)


def test_forward_is_a_snapshot_in_evaluation_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.forward_is_an_evaluation_snapshot(tmp_path, monkeypatch)


def test_pipeline_teacher_is_calibrated_still_and_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.pipeline_teacher_is_in_evaluation_mode(tmp_path, monkeypatch)


def test_teacher_and_student_see_the_same_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.teacher_and_student_see_the_same_views(tmp_path, monkeypatch)


def test_teacher_and_student_see_the_same_mixing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.teacher_and_student_see_the_same_mixing(tmp_path, monkeypatch)


def test_pipeline_gives_teacher_and_student_the_same_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.pipeline_gives_both_the_same_view(tmp_path, monkeypatch)


def test_each_model_normalises_with_its_own_mean_and_std(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.each_model_normalises_with_its_own_numbers(tmp_path, monkeypatch)


def test_cutmix_lambda_is_the_clipped_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks.cutmix_share_is_the_clipped_box(tmp_path, monkeypatch)


def test_ema_averages_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks.ema_averages_the_buffers(tmp_path, monkeypatch)


def test_online_step_makes_one_forward_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.online_step_makes_one_forward(tmp_path, monkeypatch)


def test_supervised_step_makes_one_forward_of_labels_and_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.supervised_step_makes_one_forward(tmp_path, monkeypatch)


def test_distillation_step_makes_one_forward_of_labels_and_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.distillation_step_makes_one_forward(tmp_path, monkeypatch)


def test_online_counter_and_loss_use_the_same_aligned_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.online_counter_counts_what_the_loss_uses(tmp_path, monkeypatch)


def test_rounds_train_on_exactly_what_the_report_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.round_trains_on_what_the_report_counts(tmp_path, monkeypatch)


def test_selection_and_its_reported_thresholds_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.selection_accepts_down_to_its_threshold(tmp_path, monkeypatch)


def test_fewer_labels_than_a_batch_are_repeated_not_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.few_labels_are_repeated_not_dropped(tmp_path, monkeypatch)


def test_labeled_images_leave_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks.labeled_images_leave_the_pool(tmp_path, monkeypatch)


def test_a_fold_does_not_train_on_the_labels_it_is_judged_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.held_out_labels_are_not_trained_on(tmp_path, monkeypatch)


def test_no_decision_depends_on_test_pixels_or_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.the_test_split_decides_nothing(tmp_path, monkeypatch)


def test_training_and_export_share_one_resize_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.training_and_export_see_the_same_view(tmp_path, monkeypatch)


def test_every_setting_has_another_value_to_try() -> None:
    assert checks.settings() == list(checks.CHANGED)


@pytest.mark.parametrize("name", checks.CHANGED)
def test_every_setting_changes_something(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.setting_is_alive(name)(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["limit", "alpha", "threshold", "drop_rate"])
def test_what_settings_are_judged_by_repeats(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.observation_repeats(name)(tmp_path, monkeypatch)

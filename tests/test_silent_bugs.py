"""The silent training bugs that are known, one check each; test_mutations.py proves the checks."""

from pathlib import Path

import pytest
import silent_checks as checks

pytest.importorskip("timm")

CHECKS: tuple[checks.Check, ...] = (
    checks.trained_weights_move,
    checks.frozen_weights_stay,
    checks.kd_loss_keeps_its_scale,
    checks.distillation_step_uses_the_loss_as_it_is,
    checks.teacher_gets_no_gradient,
    checks.losses_give_the_teacher_no_gradient,
    checks.several_teachers_are_the_mean_of_calibrated_probabilities,
    checks.a_joint_teacher_is_the_mean_of_its_trunks,
    checks.a_training_goes_on_from_the_first_trunks_own_head,
    checks.student_alone_sees_labels_only,
    checks.forward_is_an_evaluation_snapshot,
    checks.pipeline_teacher_is_in_evaluation_mode,
    checks.teacher_and_student_see_the_same_views,
    checks.teacher_and_student_see_the_same_mixing,
    checks.pipeline_gives_both_the_same_view,
    checks.each_model_normalises_with_its_own_numbers,
    checks.cutmix_share_is_the_clipped_box,
    checks.ema_averages_the_buffers,
    checks.online_step_makes_one_forward,
    checks.mean_teacher_step_makes_one_forward,
    checks.supervised_step_makes_one_forward,
    checks.distillation_step_makes_one_forward,
    checks.online_counter_counts_what_the_loss_uses,
    checks.flexmatch_counts_sure_images,
    checks.freematch_asks_the_global_threshold_of_the_largest_class,
    checks.softmatch_weighs_down_only_what_is_below_the_mean,
    checks.online_statistics_are_not_in_half_precision,
    checks.mean_teacher_is_a_snapshot_of_the_average,
    checks.ranks_train_as_one,
    checks.ranks_count_every_image_once,
    checks.ranks_measure_a_neck_as_one,
    checks.a_training_goes_on_as_it_was,
    checks.the_best_state_is_delivered,
    checks.a_training_in_vain_ends,
    checks.a_training_goes_on_with_its_best_state,
    checks.a_shortened_training_has_the_whole_schedule,
    checks.the_student_is_judged_on_images_apart,
    checks.the_students_head_pairs_images_with_their_own_answers,
    checks.round_trains_on_what_the_report_counts,
    checks.online_round_leaves_out_of_class_images,
    checks.images_out_of_class_decide_nothing,
    checks.limit_comes_from_held_out_images,
    checks.judged_images_are_no_part_of_their_folds_limit,
    checks.every_leg_trains_head_and_trunk,
    checks.held_out_labels_are_no_part_of_their_chains_pseudo_labels,
    checks.held_out_labels_start_no_cluster_of_their_chain,
    checks.images_out_of_class_move_no_cluster,
    checks.clusters_that_are_too_sure_do_not_outvote_the_head,
    checks.the_head_with_the_likelier_labels_has_the_larger_share,
    checks.few_labels_are_repeated_not_dropped,
    checks.streamed_passes_are_shuffled_anew_and_whole,
    checks.streamed_images_are_the_stored_ones,
    checks.labeled_images_leave_the_pool,
    checks.copies_are_not_counted_twice,
    checks.held_out_labels_are_not_trained_on,
    checks.the_test_split_decides_nothing,
    checks.an_arm_never_teaches,
    checks.ladder_differences_are_paired,
    checks.ladder_draws_are_different,
    checks.training_and_export_see_the_same_view,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_known_bug_is_not_there(
    check: checks.Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path, monkeypatch)


def test_every_setting_has_another_value_to_try() -> None:
    assert checks.settings() == list(checks.CHANGED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all settings are tried, each in a run of its own on the same images."""
    return tmp_path_factory.mktemp("settings")


@pytest.fixture(scope="module")
def usual() -> dict[str, str]:
    """What is seen there at the usual settings."""
    return {}


@pytest.mark.parametrize("name", checks.CHANGED)
def test_every_setting_changes_something(
    name: str, folder: Path, usual: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.setting_is_alive(name, usual)(folder, monkeypatch)


@pytest.mark.parametrize("name", ["limit", "alpha", "threshold", "drop_rate"])
def test_what_settings_are_judged_by_repeats(
    name: str, folder: Path, usual: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.observation_repeats(name, usual)(folder, monkeypatch)

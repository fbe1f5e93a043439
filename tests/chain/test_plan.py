import dataclasses
import itertools
from typing import Any

import pytest

from tutelage.chain.machine import Speed
from tutelage.chain.plan import (
    AFTER_S,
    AFTER_SHARE,
    CALL,
    FOLDS,
    FROZEN_COST,
    HEAD_FIT_S,
    JUDGED_FOLDS,
    LEAST_TRAINED,
    LEGS,
    MIN_JUDGED,
    MOST_TRAINED_EPOCHS,
    RESIZE,
    ROUNDS,
    SAFETY,
    SIZES,
    STEPS,
    STUDENT_SIZES,
    STUDENT_TIME,
    TRAINED_SIZE,
    VIEW_MS,
    Amounts,
    RunPlan,
    StudentCost,
    Work,
    _Lesson,
    _Trainer,
    default_minutes,
    half_time,
    labeled_share,
    make_plan,
    measured_cost,
    offered_sizes,
    pool_share,
)
from tutelage.config import make_config
from tutelage.heads.bank import CLEAN_VIEWS

SLOW = Speed("cpu", forward=4.0, train=20.0, forward_size=128, train_size=128)
QUICK = Speed("cpu", forward=0.05, train=0.15, forward_size=128, train_size=128)
GPU = Speed("cuda", forward=0.05, train=0.2, forward_size=128, train_size=128)
AMOUNTS = Amounts(labeled=40, pool=1000, judged=40, test=300, canvas=96)


def plan(speed: Speed = SLOW, amounts: Amounts = AMOUNTS, native: int = 224, **s: Any) -> RunPlan:
    return make_plan(make_config("run", s), amounts, speed, native)


@pytest.mark.parametrize(("images", "minutes"), [(0, 3.5), (1000, 4.5), (5500, 9), (10**6, 12)])
def test_default_minutes(images: int, minutes: float) -> None:
    assert default_minutes(images) == minutes


def test_the_same_inputs_plan_the_same_work() -> None:
    assert plan() == plan()
    almost = dataclasses.replace(SLOW, forward=SLOW.forward * 1.001, train=SLOW.train * 1.001)
    assert plan(almost).student.steps == plan().student.steps


@pytest.mark.parametrize("speed", [SLOW, QUICK, GPU])
@pytest.mark.parametrize("minutes", [3, 6, 20])
def test_the_estimate_keeps_the_budget(speed: Speed, minutes: float) -> None:
    found = plan(speed, minutes=minutes)
    assert found.minutes == minutes
    assert found.estimated_seconds <= minutes * 60


def test_more_time_never_plans_less() -> None:
    for speed in (SLOW, QUICK, GPU):
        plans = [plan(speed, minutes=m) for m in (2, 4, 8, 16, 32)]
        for before, after in itertools.pairwise(plans):
            assert after.size >= before.size
            assert len(after.rounds) >= len(before.rounds)


def test_a_faster_machine_sees_more() -> None:
    slow, quick = plan(SLOW, minutes=3), plan(QUICK, minutes=3)
    assert (quick.size, quick.views) >= (slow.size, slow.views)
    assert quick.student.steps > slow.student.steps


def test_choices_are_rungs_of_the_ladder() -> None:
    found = plan()
    assert found.size in SIZES
    assert found.student.steps in STEPS
    assert found.views in (2, 4, 6, 8)


def test_views_are_no_larger_than_the_weights_or_the_canvas_are_worth() -> None:
    assert plan(QUICK, native=160).size <= 160
    assert plan(QUICK, dataclasses.replace(AMOUNTS, canvas=32)).size <= 128
    assert plan(QUICK, native=32).size == 32


def test_a_student_pays_for_the_teachers_view_too() -> None:
    cost = StudentCost(0.67, 0.5, 224, step=1)
    seconds = {
        size: _Lesson(AMOUNTS, SLOW, size, size, False, cost)._step_seconds(128)
        for size in (128, 224)
    }
    # The teacher's own view and its larger forward, for each of a step's 32 images.
    extra = SLOW.forward_ms(224) - SLOW.forward_ms(128) + VIEW_MS * (224 / 160) ** 2
    assert seconds[224] - seconds[128] == pytest.approx(0.032 * extra)


def test_beside_other_jobs_exports_and_heads_take_longer_too() -> None:
    """Of two machines with the same forward, one is slow and one is busy."""
    slow, busy = plan(SLOW), plan(dataclasses.replace(SLOW, busy=2.0))
    assert busy.after_seconds == 2 * slow.after_seconds == 2 * AFTER_S
    assert busy.student.steps < slow.student.steps
    for found in (slow, busy):
        assert found.estimated_seconds <= 60 * found.minutes * SAFETY
    trained = [sum(work.seconds for work in (*p.rounds, p.student)) for p in (slow, busy)]
    assert trained[0] - trained[1] >= AFTER_S  # and what the heads and the views take


@pytest.mark.parametrize("minutes", [1, 2, 4])
def test_the_exports_of_a_busy_machine_leave_the_training_its_time(minutes: float) -> None:
    found = plan(dataclasses.replace(SLOW, busy=9.3), minutes=minutes)
    assert found.after_seconds == AFTER_SHARE * 60 * minutes


def test_a_round_that_nothing_judges_pays_for_its_last_looks() -> None:
    """Its temperature and its threshold are matched on 500 pool images: three forwards at each."""
    work, look = Work("trained", 100, 32, 128, revisions=2), SLOW.forward_ms(128) / 1e3

    def seconds(**amounts: int) -> float:
        changed = dataclasses.replace(AMOUNTS, **amounts)
        config = make_config("run", {})
        return _Trainer(config, changed, SLOW, 128, 0, True, True).seconds(work, folds=0)

    revised = 2 * (pool_share(work, 3000) - pool_share(work, 300))
    added = seconds(pool=3000) - seconds(pool=300)
    assert added == pytest.approx(look * (revised + 3 * (500 - 300)))
    answers = CLEAN_VIEWS * AMOUNTS.judged  # of a val split, which judges it
    assert seconds() - seconds(folds=0) == pytest.approx(look * (3 * 500 - answers))


@pytest.mark.parametrize("canvas", [32, 96, 256])
@pytest.mark.parametrize("teacher", [96, 160, 224])
def test_half_of_a_teachers_time(teacher: int, canvas: int) -> None:
    size, fixed = half_time(teacher, canvas), CALL + RESIZE * canvas**2
    if size:
        assert STUDENT_TIME * size**2 + fixed == pytest.approx((teacher**2 + fixed) / 2)
    else:
        assert teacher**2 <= fixed


@pytest.mark.parametrize(
    ("settings", "native", "canvas", "teacher", "student"),
    [
        ({}, 224, 256, 224, 176),
        ({}, 224, 32, 96, 72),  # that its last round trains
        ({"trunk": "frozen"}, 224, 32, 128, 96),
        ({}, 128, 256, 128, 80),
        ({}, 128, 512, 128, 72),  # resizing alone takes more than half: the least that keeps detail
        ({}, 64, 256, 64, 64),
        ({"input_size": 160}, 224, 256, 160, 160),  # asked for
    ],
)
def test_a_student_is_as_large_as_half_of_the_time_allows(
    settings: dict[str, Any], native: int, canvas: int, teacher: int, student: int
) -> None:
    amounts = dataclasses.replace(AMOUNTS, canvas=canvas)
    found = plan(QUICK, amounts, native, **settings)
    sizes = [found.size, *(work.size for work in found.rounds if work.trunk == "trained")]
    assert teacher == sizes[-1]
    assert found.student.size == student


def test_a_student_is_quick_whichever_round_becomes_its_teacher() -> None:
    many = dataclasses.replace(AMOUNTS, labeled=400, judged=400, canvas=32)
    found = plan(QUICK, many)
    assert found.judged_folds  # so the round at 96 px may be rejected, and the one at 128 px teach
    assert (found.size, found.rounds[-1].size, found.student.size) == (128, 96, 72)
    alone = plan(QUICK, dataclasses.replace(many, pool=0))
    assert (alone.transfer.trunk, alone.transfer.size, alone.student.size) == ("trained", 96, 72)


def test_a_transformers_views_are_whole_patches() -> None:
    def sizes(step: int | None, **settings: Any) -> list[int]:
        config = make_config("run", {"minutes": 8, **settings})
        found = make_plan(config, AMOUNTS, QUICK, 518, step=step)
        return [found.size, *(work.size for work in found.rounds), found.student.size]

    for step in (14, 16, 32):
        assert max(sizes(step)) == 224  # not the 518 that the weights are made for
        assert not any(size % step for size in sizes(step))
    assert set(sizes(14, input_size=98)) == {98}
    assert set(sizes(None)) == {518}


def test_a_student_of_its_own_kind_is_planned_by_its_own_cost() -> None:
    heavy = Speed("cpu", forward=20.0, train=60.0, forward_size=128, train_size=128)
    small = measured_cost(SLOW, heavy, 224, 1)
    assert (small.forward, small.train) == pytest.approx((0.2, FROZEN_COST / 3))
    on_gpu = measured_cost(GPU, GPU, 224, 1)
    assert (on_gpu.forward, on_gpu.train) == (1.0, 1.0)
    amounts = dataclasses.replace(AMOUNTS, canvas=256)

    def planned(cost: StudentCost | None) -> Work:
        return make_plan(make_config("run", {"minutes": 30}), amounts, heavy, 224, student=cost
                         ).student  # fmt: skip

    assert planned(small).size > planned(None).size  # it has half of its teacher's time, too
    slow = dataclasses.replace(small, train=10.0)
    assert planned(slow).steps < planned(small).steps
    assert planned(dataclasses.replace(small, step=None, size=240)).size == 240
    assert planned(dataclasses.replace(small, step=64)).size % 64 == 0


def test_students_are_offered_at_sides_that_fit_them() -> None:
    found = plan(QUICK, dataclasses.replace(AMOUNTS, canvas=256))
    assert set(offered_sizes(found, 1)) <= {found.student.size, *STUDENT_SIZES}
    whole = [size for size in offered_sizes(found, 32) if size != found.student.size]
    assert whole
    assert not any(size % 32 for size in whole)
    assert offered_sizes(found, None) == [found.student.size]


def test_without_a_pool_there_are_no_rounds() -> None:
    for speed in (SLOW, QUICK, GPU):
        found = plan(speed, dataclasses.replace(AMOUNTS, pool=0))
        assert found.rounds == ()
        assert found.transfer.trunk in ("frozen", "trained")


def test_what_the_user_fixed_stays_fixed() -> None:
    assert plan(input_size=160).size == 160
    for speed in (SLOW, QUICK, GPU):
        frozen = plan(speed, trunk="frozen")
        assert {work.trunk for work in (*frozen.rounds, frozen.transfer)} == {"frozen"}
        assert plan(speed, trunk="trained").transfer.trunk == "trained"
    assert plan(rounds=0).rounds == ()
    assert len(plan(QUICK, rounds=2).rounds) == 2


def test_a_trained_round_sees_enough_or_is_left_out() -> None:
    found = [plan(minutes=m).rounds for m in (2, 4, 8, 16, 32)]
    trained = [[work for work in rounds if work.trunk == "trained"] for rounds in found]
    assert not trained[0]
    assert trained[-1]
    for (work,) in filter(None, trained):
        assert work.steps * work.batch_size >= LEAST_TRAINED
        assert work.steps * work.batch_size <= MOST_TRAINED_EPOCHS * 1040
        assert work.size <= TRAINED_SIZE
        assert LEGS[0] <= 1 + work.revisions <= LEGS[1]
    assert trained[-1][0].revisions == LEGS[1] - 1  # several passes over the pool
    small = plan(amounts=dataclasses.replace(AMOUNTS, canvas=32), minutes=32)
    assert small.rounds[-1].size == 96  # three times the canvas
    assert small.size == 128


def test_of_a_large_pool_only_what_is_learned_from_is_labelled_anew() -> None:
    work = Work("trained", steps=300, batch_size=32, size=96, revisions=2)
    assert pool_share(work, 10**6) == 100 * 28  # a leg's steps times the unlabelled of a batch
    assert pool_share(work, 1000) == 1000
    large = dataclasses.replace(AMOUNTS, pool=50_000, canvas=32)
    larger = dataclasses.replace(large, pool=60_000)
    works = [plan(amounts=amounts, minutes=40).rounds[-1] for amounts in (large, larger)]
    assert works[0].revisions == LEGS[0] - 1
    assert works[0].steps >= works[1].steps > 0.7 * works[0].steps


@pytest.mark.parametrize("speed", [SLOW, QUICK])
@pytest.mark.parametrize("pool", [0, 1000])
def test_a_trunk_trained_on_the_labels_keeps_the_budget_too(speed: Speed, pool: int) -> None:
    amounts = dataclasses.replace(AMOUNTS, pool=pool)
    found = plan(speed, amounts, trunk="trained", minutes=20)
    assert found.transfer.trunk == "trained"
    assert found.estimated_seconds <= 20 * 60


def test_a_few_held_out_labels_judge_no_trained_round() -> None:
    few = MIN_JUDGED * FOLDS // JUDGED_FOLDS
    counts = {
        judged: plan(amounts=dataclasses.replace(AMOUNTS, judged=judged)).judged_folds
        for judged in (few - 1, few)
    }
    assert counts == {few - 1: 0, few: JUDGED_FOLDS}


def test_a_gpu_learns_online_and_who_asks_for_it() -> None:
    assert plan(GPU).rounds[-1].trunk == "online"
    assert "online" not in {work.trunk for work in plan(QUICK).rounds}
    asked = plan(QUICK, trunk="online")
    assert [work.trunk for work in asked.rounds[-2:]] == ["frozen", "online"]
    assert asked.transfer.trunk == "frozen"
    assert plan(GPU, trunk="trained").rounds[-1].trunk == "trained"
    alone = dataclasses.replace(AMOUNTS, pool=0)
    assert plan(QUICK, alone, trunk="online").rounds == ()


def test_a_cpu_trains_no_trunk_on_views_that_show_less() -> None:
    quick = dataclasses.replace(QUICK, forward=0.5, train=1.5)
    large = dataclasses.replace(AMOUNTS, canvas=256)
    assert plan(quick).rounds[-1].trunk == "trained"
    assert {work.trunk for work in plan(quick, large).rounds} == {"frozen"}
    assert plan(quick, large, trunk="trained").rounds[-1].trunk == "trained"


@pytest.mark.parametrize("labels", [20, 40, 64, 80, 150, 400])
def test_a_trunk_is_trained_on_labels_alone_if_they_are_enough(labels: int) -> None:
    alone = dataclasses.replace(AMOUNTS, labeled=labels, judged=labels, pool=0)
    work = plan(QUICK, alone, minutes=10).transfer
    assert (work.trunk == "trained") == (labels >= 144)
    assert work.steps * work.batch_size <= MOST_TRAINED_EPOCHS * labels


def test_rounds_count_the_trained_one() -> None:
    assert [work.trunk for work in plan(QUICK, rounds=1).rounds] == ["trained"]
    assert [work.trunk for work in plan(QUICK, rounds=3).rounds] == ["frozen", "frozen", "trained"]
    assert len(plan(QUICK, rounds=6).rounds) == 6


def test_time_goes_to_no_stage_that_a_command_leaves_out() -> None:
    def of(command: str, **settings: Any) -> RunPlan:
        config = make_config("run", settings)
        return make_plan(config, AMOUNTS, SLOW, 224, command=command)

    run = of("run", minutes=8)
    assert of("transfer", minutes=8).rounds == of("distill", minutes=8).rounds == ()
    assert of("run", minutes=8, rounds=0).rounds == ()
    alone = of("distill", minutes=8).student
    assert alone.steps * alone.size > run.student.steps * run.student.size
    assert of("self-train", minutes=8).rounds[-1].steps > run.rounds[-1].steps
    assert of("transfer", minutes=8).estimated_seconds < run.estimated_seconds


@pytest.mark.parametrize(
    ("labeled", "pool", "images", "share"),
    [(20, 2000, 4800, 0.125), (40, 1000, 4800, 0.25), (400, 4000, 4800, 0.5), (90, 10, 9600, 0.9)],
)
def test_true_labels_are_seen_often_but_leave_half_of_a_batch(
    labeled: int, pool: int, images: int, share: float
) -> None:
    amounts = dataclasses.replace(AMOUNTS, labeled=labeled, pool=pool)
    assert labeled_share(amounts, images) == pytest.approx(share)


def test_trained_work_says_how_many_of_a_batch_are_labels() -> None:
    found = plan(QUICK)
    for work in (found.rounds[-1], found.student):
        assert work.labeled_share == labeled_share(AMOUNTS, work.steps * work.batch_size)
    few = dataclasses.replace(AMOUNTS, labeled=10, judged=10)
    many = dataclasses.replace(AMOUNTS, labeled=400, judged=400)
    assert plan(QUICK, few).rounds[-1].restarts
    assert not plan(QUICK, many).rounds[-1].restarts


def test_a_validation_split_repeats_nothing() -> None:
    many = dataclasses.replace(AMOUNTS, labeled=400, judged=400)
    val = dataclasses.replace(many, folds=0)
    found, folds = plan(SLOW, val, minutes=8), plan(SLOW, many, minutes=8)
    assert (found.judged_folds, folds.judged_folds) == (0, 1)
    assert found.rounds[-1].steps > folds.rounds[-1].steps


def test_a_student_of_two_trunks_is_cut_from_one() -> None:
    """Half of the time that both take leaves its views larger."""
    one, two = (plan(SLOW, dataclasses.replace(AMOUNTS, trunks=n), trunk="frozen") for n in (1, 2))
    assert one.size == two.size == 224
    assert two.student.size > one.student.size


def test_a_student_of_a_round_that_trains_the_first_trunk_is_planned_for_that_one() -> None:
    small = dataclasses.replace(AMOUNTS, canvas=32)
    one = plan(SLOW, small, minutes=8)
    both = dataclasses.replace(SLOW, forward=2 * SLOW.forward)  # of two trunks, half is the first's
    two = plan(both, dataclasses.replace(small, trunks=2), minutes=8)
    assert one.rounds[-1].trunk == two.rounds[-1].trunk == "trained"
    assert two.student.size == one.student.size
    step = [found.student.seconds / found.student.steps for found in (one, two)]
    assert step[1] == pytest.approx(step[0], rel=0.01)


def test_every_trunk_has_heads_to_fit() -> None:
    many = dataclasses.replace(AMOUNTS, pool=10_000)
    student = StudentCost(forward=0.6, train=0.5, size=224, step=1)

    def of(trunks: int, minutes: float) -> RunPlan:
        config = make_config("run", {"minutes": minutes, "trunk": "frozen"})
        amounts = dataclasses.replace(many, trunks=trunks)
        return make_plan(config, amounts, QUICK, 224, student=student)

    one, five = of(1, 7), of(5, 7)
    assert (one.size, one.views, one.rounds) == (five.size, five.views, five.rounds)
    assert five.student.steps < one.student.steps
    images, views, fits = many.labeled + many.pool, one.views, (1 + FOLDS) * ROUNDS
    two = of(2, 8)
    more = two.estimated_seconds - one.estimated_seconds
    assert more == pytest.approx(HEAD_FIT_S * images * views * fits, abs=0.11)


@pytest.mark.parametrize(("trunk", "gains"), [("frozen", True), ("trained", False)])
def test_what_a_frozen_teacher_is_known_to_answer_leaves_time_for_steps(
    monkeypatch: pytest.MonkeyPatch, trunk: str, gains: bool
) -> None:
    known = plan(SLOW, minutes=6, trunk=trunk)
    monkeypatch.setattr("tutelage.chain.plan.tells_enough", lambda *_: False)
    asked = plan(SLOW, minutes=6, trunk=trunk)
    assert (known.student.steps > asked.student.steps) == gains
    assert known.estimated_seconds <= 6 * 60


def test_more_teachers_leave_fewer_steps() -> None:
    config = make_config("distill", {"teacher": "a", "minutes": 4})
    one, five = (
        make_plan(config, dataclasses.replace(AMOUNTS, teachers=n), SLOW, 224, command="distill")
        for n in (1, 5)
    )
    assert five.student.steps * five.student.size < one.student.steps * one.student.size

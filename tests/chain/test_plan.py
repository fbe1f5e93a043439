"""What fits into the minutes."""

import dataclasses
import itertools
from typing import Any

import pytest

from tutelage.chain import plan as plans
from tutelage.chain.machine import Speed
from tutelage.chain.plan import (
    AFTER_S,
    AFTER_SHARE,
    CALL,
    FOLDS,
    FROZEN_COST,
    HEAD_FIT_S,
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
    VIEW_MS,
    Amounts,
    RunPlan,
    StudentCost,
    Work,
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
ALL_SPEEDS = pytest.mark.parametrize("speed", [SLOW, QUICK, GPU])


def amounts_of(**changed: int) -> Amounts:
    return dataclasses.replace(AMOUNTS, **changed)


def plan(speed: Speed = SLOW, amounts: Amounts = AMOUNTS, native: int = 224, *,
         command: str = "run", student: StudentCost | None = None, step: int | None = 1,
         **settings: Any) -> RunPlan:  # fmt: skip
    config = make_config("run", settings)
    return make_plan(config, amounts, speed, native, step=step, command=command, student=student)


def trunks(found: RunPlan) -> list[str]:
    return [work.trunk for work in found.rounds]


@pytest.mark.parametrize(("images", "minutes"), [(0, 3.5), (1000, 4.5), (5500, 9), (10**6, 12)])
def test_default_minutes(images: int, minutes: float) -> None:
    assert default_minutes(images) == minutes


def test_nearly_the_same_inputs_plan_the_same_work() -> None:
    almost = dataclasses.replace(SLOW, forward=SLOW.forward * 1.001, train=SLOW.train * 1.001)
    assert plan(almost).student.steps == plan().student.steps


@ALL_SPEEDS
def test_every_plan_keeps_the_budget_and_more_time_never_plans_less(speed: Speed) -> None:
    found = [plan(speed, minutes=minutes) for minutes in (2, 3, 4, 6, 8, 16, 20, 32)]
    for one in found:
        assert one.minutes < 3 or one.estimated_seconds <= 60 * one.minutes
        assert one.size in SIZES
        assert one.student.steps in STEPS
        assert one.views in (2, 4)
    for before, after in itertools.pairwise(found):
        assert after.size >= before.size
        assert len(after.rounds) >= len(before.rounds)


def test_a_faster_machine_sees_more() -> None:
    slow, quick = plan(SLOW, minutes=3), plan(QUICK, minutes=3)
    assert (quick.size, quick.views) >= (slow.size, slow.views)
    assert quick.student.steps > slow.student.steps


def test_views_are_no_larger_than_the_weights_or_the_canvas_are_worth() -> None:
    assert plan(QUICK, native=160).size <= 160
    assert plan(QUICK, amounts_of(canvas=32)).size <= 128
    assert plan(QUICK, native=32).size == 32


def test_a_student_pays_for_the_teachers_view_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "STEPS", (40,))
    cost = StudentCost(0.67, 0.5, 128, step=None)
    seconds = [
        plan(native=size, command="distill", student=cost, step=None, minutes=9).student.seconds
        for size in (128, 224)
    ]
    # The teacher's own view and its larger forward, for each of a step's 32 images.
    extra = SLOW.forward_ms(224) - SLOW.forward_ms(128) + VIEW_MS * (224 / 160) ** 2
    assert seconds[1] - seconds[0] == pytest.approx(40 * 0.032 * extra, abs=0.11)


def test_beside_other_jobs_exports_and_heads_take_longer_too() -> None:
    """Of two machines with the same forward, one is slow and one is busy."""
    slow, busy = plan(SLOW), plan(dataclasses.replace(SLOW, busy=2.0))
    assert busy.after_seconds == 2 * slow.after_seconds == 2 * AFTER_S
    assert busy.student.steps < slow.student.steps
    for found in (slow, busy):
        assert found.estimated_seconds <= 60 * found.minutes * SAFETY
    trained = [sum(work.seconds for work in (*p.rounds, p.student)) for p in (slow, busy)]
    assert trained[0] - trained[1] >= AFTER_S  # and what the heads and the views take
    for minutes in (1, 2, 4):  # but the exports leave the training its time
        found = plan(dataclasses.replace(SLOW, busy=9.3), minutes=minutes)
        assert found.after_seconds == AFTER_SHARE * 60 * minutes


def test_a_round_that_nothing_judges_pays_for_its_last_looks() -> None:
    """Its temperature and its threshold are matched on 500 pool images: three forwards at each."""
    work, look = Work("trained", 100, 32, 128, revisions=2), SLOW.forward_ms(128) / 1e3

    def seconds(**amounts: int) -> float:
        return plans._stage_seconds(amounts_of(**amounts), SLOW, work, folds=0)

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
    found = plan(QUICK, amounts_of(canvas=canvas), native, **settings)
    sizes = [found.size, *(work.size for work in found.rounds if work.trunk == "trained")]
    assert teacher == sizes[-1]
    assert found.student.size == student


def test_a_student_is_quick_whichever_round_becomes_its_teacher() -> None:
    many = amounts_of(labeled=400, judged=400, canvas=32)
    found = plan(QUICK, many)
    assert found.judged_folds  # so the round at 96 px may be rejected, and the one at 128 px teach
    assert (found.size, found.rounds[-1].size, found.student.size) == (128, 96, 72)
    alone = plan(QUICK, dataclasses.replace(many, pool=0))
    assert (alone.transfer.trunk, alone.transfer.size, alone.student.size) == ("trained", 96, 72)


def test_a_transformers_views_are_whole_patches() -> None:
    def sizes(step: int | None, **settings: Any) -> list[int]:
        found = plan(QUICK, native=518, step=step, minutes=8, **settings)
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

    def planned(cost: StudentCost | None) -> Work:
        return plan(heavy, amounts_of(canvas=256), student=cost, minutes=30).student

    assert planned(small).size > planned(None).size  # it has half of its teacher's time, too
    slow = dataclasses.replace(small, train=10.0)
    assert planned(slow).steps < planned(small).steps
    assert planned(dataclasses.replace(small, step=None, size=240)).size == 240
    assert planned(dataclasses.replace(small, step=64)).size % 64 == 0


def test_students_are_offered_at_sides_that_fit_them() -> None:
    found = plan(QUICK, amounts_of(canvas=256))
    assert set(offered_sizes(found, 1)) <= {found.student.size, *STUDENT_SIZES}
    whole = [size for size in offered_sizes(found, 32) if size != found.student.size]
    assert whole
    assert not any(size % 32 for size in whole)
    assert offered_sizes(found, None) == [found.student.size]


@ALL_SPEEDS
def test_what_the_user_fixed_stays_fixed(speed: Speed) -> None:
    assert plan(speed, input_size=160).size == 160
    frozen = plan(speed, trunk="frozen")
    assert {*trunks(frozen), frozen.transfer.trunk} == {"frozen"}
    assert plan(speed, trunk="trained").transfer.trunk == "trained"
    assert plan(speed, rounds=0).rounds == ()
    assert len(plan(speed, rounds=6).rounds) == 6
    without_pool = plan(speed, amounts_of(pool=0))
    assert without_pool.rounds == ()
    assert without_pool.transfer.trunk in ("frozen", "trained")


def test_a_trained_round_sees_enough_or_is_left_out() -> None:
    found = [plan(minutes=m).rounds for m in (2, 4, 8, 16, 32)]
    trained = [[work for work in rounds if work.trunk == "trained"] for rounds in found]
    assert not trained[0]
    assert trained[-1]
    for (work,) in filter(None, trained):
        images = work.steps * work.batch_size
        assert plans.LEAST_TRAINED <= images <= MOST_TRAINED_EPOCHS * 1040
        assert work.size <= plans.TRAINED_SIZE
        assert LEGS[0] <= 1 + work.revisions <= LEGS[1]
    assert trained[-1][0].revisions == LEGS[1] - 1  # several passes over the pool
    small = plan(amounts=amounts_of(canvas=32), minutes=32)
    assert small.rounds[-1].size == 96  # three times the canvas
    assert small.size == 128


def test_of_a_large_pool_only_what_is_learned_from_is_labelled_anew() -> None:
    work = Work("trained", steps=300, batch_size=32, size=96, revisions=2)
    assert pool_share(work, 10**6) == 100 * 28  # a leg's steps times the unlabelled of a batch
    assert pool_share(work, 1000) == 1000
    works = [
        plan(amounts=amounts_of(pool=pool, canvas=32), minutes=40).rounds[-1]
        for pool in (50_000, 60_000)
    ]
    assert works[0].revisions == LEGS[0] - 1
    assert works[0].steps >= works[1].steps > 0.7 * works[0].steps


@pytest.mark.parametrize("speed", [SLOW, QUICK])
@pytest.mark.parametrize("pool", [0, 1000])
def test_a_trunk_trained_on_the_labels_keeps_the_budget_too(speed: Speed, pool: int) -> None:
    found = plan(speed, amounts_of(pool=pool), trunk="trained", minutes=20)
    assert found.transfer.trunk == "trained"
    assert found.estimated_seconds <= 20 * 60


def test_a_few_held_out_labels_judge_no_trained_round_nor_does_a_val_split_repeat_it() -> None:
    few = MIN_JUDGED * FOLDS
    found = [plan(amounts=amounts_of(judged=judged)).judged_folds for judged in (few - 1, few)]
    assert found == [0, 1]
    many = amounts_of(labeled=400, judged=400)
    val, folds = (plan(amounts=dataclasses.replace(many, folds=n), minutes=8) for n in (0, FOLDS))
    assert (val.judged_folds, folds.judged_folds) == (0, 1)
    assert val.rounds[-1].steps > folds.rounds[-1].steps


def test_a_gpu_learns_online_and_who_asks_for_it() -> None:
    assert trunks(plan(GPU))[-1] == "online"
    assert "online" not in trunks(plan(QUICK))
    asked = plan(QUICK, trunk="online")
    assert trunks(asked)[-2:] == ["frozen", "online"]
    assert asked.transfer.trunk == "frozen"
    assert trunks(plan(GPU, trunk="trained"))[-1] == "trained"
    assert plan(QUICK, amounts_of(pool=0), trunk="online").rounds == ()


def test_a_cpu_trains_no_trunk_on_views_that_show_less() -> None:
    quick = dataclasses.replace(QUICK, forward=0.5, train=1.5)
    large = amounts_of(canvas=256)
    assert trunks(plan(quick))[-1] == "trained"
    assert {*trunks(plan(quick, large))} == {"frozen"}
    assert trunks(plan(quick, large, trunk="trained"))[-1] == "trained"


@pytest.mark.parametrize("labels", [20, 40, 64, 80, 150, 400])
def test_a_trunk_is_trained_on_labels_alone_if_they_are_enough(labels: int) -> None:
    work = plan(QUICK, amounts_of(labeled=labels, judged=labels, pool=0), minutes=10).transfer
    assert (work.trunk == "trained") == (labels >= 144)
    assert work.steps * work.batch_size <= MOST_TRAINED_EPOCHS * labels


def test_rounds_count_the_trained_one() -> None:
    assert trunks(plan(QUICK, rounds=1)) == ["trained"]
    assert trunks(plan(QUICK, rounds=3)) == ["frozen", "frozen", "trained"]


def test_time_goes_to_no_stage_that_a_command_leaves_out() -> None:
    run, transfer, self_train, distill = (
        plan(command=command, minutes=8) for command in ("run", "transfer", "self-train", "distill")
    )
    assert transfer.rounds == distill.rounds == ()
    assert distill.student.steps * distill.student.size > run.student.steps * run.student.size
    assert self_train.rounds[-1].steps > run.rounds[-1].steps
    assert transfer.estimated_seconds < run.estimated_seconds
    config = make_config("distill", {"teacher": "a", "minutes": 8})
    five = make_plan(config, amounts_of(teachers=5), SLOW, 224, command="distill").student
    assert five.steps * five.size < distill.student.steps * distill.student.size


@pytest.mark.parametrize(
    ("labeled", "pool", "images", "share"),
    [(20, 2000, 4800, 0.125), (40, 1000, 4800, 0.25), (400, 4000, 4800, 0.5), (90, 10, 9600, 0.9)],
)
def test_true_labels_are_seen_often_but_leave_half_of_a_batch(
    labeled: int, pool: int, images: int, share: float
) -> None:
    assert labeled_share(amounts_of(labeled=labeled, pool=pool), images) == pytest.approx(share)


def test_trained_work_says_how_many_of_a_batch_are_labels() -> None:
    found = plan(QUICK)
    for work in (found.rounds[-1], found.student):
        assert work.labeled_share == labeled_share(AMOUNTS, work.steps * work.batch_size)
    few, many = (plan(QUICK, amounts_of(labeled=n, judged=n)).rounds[-1] for n in (10, 400))
    assert few.restarts
    assert not many.restarts


def test_a_student_of_two_trunks_is_cut_from_one() -> None:
    """Half of the time that both take leaves its views larger."""
    one, two = (plan(SLOW, amounts_of(trunks=n), trunk="frozen") for n in (1, 2))
    assert one.size == two.size == 224
    assert two.student.size > one.student.size


def test_a_student_of_a_round_that_trains_the_first_trunk_is_planned_for_that_one() -> None:
    one = plan(SLOW, amounts_of(canvas=32), minutes=8)
    both = dataclasses.replace(SLOW, forward=2 * SLOW.forward)  # of two trunks, half is the first's
    two = plan(both, amounts_of(canvas=32, trunks=2), minutes=8)
    assert trunks(one)[-1] == trunks(two)[-1] == "trained"
    assert two.student.size == one.student.size
    step = [found.student.seconds / found.student.steps for found in (one, two)]
    assert step[1] == pytest.approx(step[0], rel=0.01)


def test_every_trunk_has_heads_to_fit() -> None:
    def of(trunks: int, minutes: float) -> RunPlan:
        cost = StudentCost(forward=0.6, train=0.5, size=224, step=1)
        many = amounts_of(pool=10_000, trunks=trunks)
        return plan(QUICK, many, student=cost, minutes=minutes, trunk="frozen")

    one, five = of(1, 7), of(5, 7)
    assert (one.size, one.views, one.rounds) == (five.size, five.views, five.rounds)
    assert five.student.steps < one.student.steps
    more = of(2, 8).estimated_seconds - one.estimated_seconds
    fits = 10_040 * one.views * (1 + FOLDS) * ROUNDS
    assert more == pytest.approx(HEAD_FIT_S * fits, abs=0.11)


@pytest.mark.parametrize(("trunk", "gains"), [("frozen", True), ("trained", False)])
def test_what_a_frozen_teacher_is_known_to_answer_leaves_time_for_steps(
    monkeypatch: pytest.MonkeyPatch, trunk: str, gains: bool
) -> None:
    known = plan(SLOW, minutes=6, trunk=trunk)
    monkeypatch.setattr(plans, "tells_enough", lambda *_: False)
    asked = plan(SLOW, minutes=6, trunk=trunk)
    assert (known.student.steps > asked.student.steps) == gains
    assert known.estimated_seconds <= 6 * 60

import copy
import dataclasses
import itertools
import math
from typing import Any

import pytest
import tiny
import torch

from tutelage.config import TrainConfig
from tutelage.models.zoo import create
from tutelage.steps.supervised import supervised_step
from tutelage.system.errors import TutelageError
from tutelage.training.batch import Batch
from tutelage.training.loop import Result, learning_rate_factor, train

CONFIG = TrainConfig(12, lr_head=1e-2, lr_trunk=1e-2, log_every=4)


def run(config: TrainConfig = CONFIG, *, seed: int = 0, noise: float = 0.0, **options: Any) -> Any:
    model = tiny.classifier()
    model.set_noise(noise, 0.0)
    torch.manual_seed(seed)
    data = tiny.batches(config.steps)
    return train(model, data, supervised_step, config, device=tiny.CPU, **options), model


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def test_equal_seeds_give_bitwise_equal_weights_and_another_seed_others() -> None:
    first, second, other = (run(noise=0.5, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(weights(first.model), weights(second.model))
    assert first.history == second.history
    assert not torch.equal(weights(first.model), weights(other.model))


def test_two_classes_are_learned() -> None:
    config = TrainConfig(60, lr_head=3e-2, lr_trunk=3e-2)
    result, _ = run(config)
    images, labels = tiny.two_classes(40, seed=999)
    with torch.no_grad():
        logits = result.model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    assert (logits.argmax(dim=1).numpy() == labels).mean() == 1.0
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]


def test_result_is_an_average_in_evaluation_mode_apart_from_the_model() -> None:
    result, model = run()
    assert isinstance(result, Result)
    assert not result.model.training
    assert not any(p.requires_grad for p in result.model.parameters())
    assert model.training
    assert not torch.equal(weights(result.model), weights(model))


def test_one_step_is_torchs_adamw() -> None:
    config = TrainConfig(1, lr_head=1e-2, lr_trunk=1e-3, clip_norm=1e9, weight_decay=0.1)
    _, model = run(config)
    expected = tiny.classifier().train()
    batch = tiny.batches(1)[0]
    torch.nn.functional.cross_entropy(expected(batch.images), batch.targets).backward()
    trunk = dict(expected.trunk.named_parameters())
    head = dict(expected.head.named_parameters())
    groups = [
        {"params": [trunk["0.weight"]], "lr": 1e-3, "weight_decay": 0.1},
        {"params": [trunk[n] for n in ("0.bias", "1.weight", "1.bias")], "lr": 1e-3,
         "weight_decay": 0.0},
        {"params": [head["weight"]], "lr": 1e-2, "weight_decay": 0.1},
        {"params": [head["bias"]], "lr": 1e-2, "weight_decay": 0.0},
    ]  # fmt: skip
    torch.optim.AdamW(groups).step()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)


def test_learning_rate_rises_then_falls_along_a_cosine() -> None:
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.001
    assert learning_rate_factor(0, 1, 1) == 1.0
    assert math.isfinite(learning_rate_factor(5, 5, 5))


def rates(monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> list[dict[str, float]]:
    """Learning rates of the groups at every step."""
    seen: list[dict[str, float]] = []
    step = torch.optim.AdamW.step

    def spy(self: Any, *args: Any) -> Any:
        seen.append({group["name"]: group["lr"] for group in self.param_groups})
        return step(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", spy)
        run(config)
    return seen


def test_rates_of_the_groups_follow_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIG, lr_head=1e-2, lr_trunk=1e-3, warmup=0.25)
    seen = rates(monkeypatch, config)
    factors = [learning_rate_factor(number, 12, 3) for number in range(12)]
    assert [row["head"] for row in seen] == pytest.approx([1e-2 * f for f in factors])
    assert [row["trunk"] for row in seen] == pytest.approx([1e-3 * f for f in factors])


class _Bad:
    """A step whose loss, or only its gradient, is not finite at one step."""

    def __init__(self, at: int, kind: str) -> None:
        self.at, self.kind, self.calls = at, kind, 0

    def __call__(self, model: Any, batch: Batch) -> Any:
        self.calls += 1
        loss, metrics = supervised_step(model, batch)
        if self.calls == self.at:
            if self.kind == "gradient":  # a square root has an infinite slope at zero
                loss = loss + (model.head.weight * 0).sum().sqrt()
            else:
                loss = loss * float(self.kind)
        return loss, metrics


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_a_loss_that_is_not_finite_names_the_step_and_moves_nothing(kind: str) -> None:
    model = tiny.classifier()
    step = _Bad(at=3, kind=kind)
    with pytest.raises(TutelageError, match=r"not finite at step 3 of 12.*0\.01 head"):
        train(model, tiny.batches(12), step, CONFIG, device=tiny.CPU)
    assert step.calls == 3
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_running_out_of_batches_is_said() -> None:
    with pytest.raises(TutelageError, match="5 of 12"):
        train(tiny.classifier(), tiny.batches(5), supervised_step, CONFIG, device=tiny.CPU)


def test_an_endless_loader_is_asked_for_no_more_than_the_steps() -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        for batch in itertools.cycle(tiny.batches(2)):
            taken += 1
            yield batch

    train(tiny.classifier(), endless(), supervised_step, CONFIG, device=tiny.CPU)
    assert taken == 12


def test_a_leg_has_its_part_of_the_whole_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rates(monkeypatch, dataclasses.replace(CONFIG, steps=6, warmup=0.2))
    legs = [
        rates(
            monkeypatch,
            dataclasses.replace(
                CONFIG, steps=3, warmup=0.2, schedule_first=first, schedule_steps=6
            ),
        )
        for first in (0, 3)
    ]
    assert legs[0] + legs[1] == whole


def test_history_comes_every_log_every_and_at_the_end_and_the_callback_with_every_step() -> None:
    calls: list[tuple[int, Any]] = []
    config = dataclasses.replace(CONFIG, steps=10, log_every=4)
    result, _ = run(config, on_step=lambda number, row: calls.append((number, row)))
    assert [row["step"] for row in result.history] == [4, 8, 10]
    assert [number for number, _ in calls] == [*range(1, 11)]
    assert [row for _, row in calls if row is not None] == result.history
    assert set(result.history[0]) == {"step", "grad_norm", "loss", "train_accuracy"}


ALIVE: dict[str, Any] = {
    "steps": 7,
    "schedule_first": 3,
    "schedule_steps": 50,
    "lr_head": 2e-2,
    "lr_trunk": 2e-2,
    "layer_decay": 0.5,
    "weight_decay": 0.5,
    "warmup": 0.5,
    "clip_norm": 1e-3,
    "ema_decay": 0.1,
    "log_every": 1,
}


def test_every_field_has_another_value_to_try() -> None:
    assert list(ALIVE) == [field.name for field in dataclasses.fields(TrainConfig)]


@pytest.mark.parametrize("name", ALIVE)
def test_every_field_of_train_config_is_alive(name: str) -> None:
    found = []
    for config in (CONFIG, dataclasses.replace(CONFIG, **{name: ALIVE[name]})):
        model = _layered() if name == "layer_decay" else tiny.classifier()
        result = train(model, tiny.batches(config.steps), supervised_step, config, device=tiny.CPU)
        found.append((weights(result.model).tolist(), len(result.history)))
    assert found[0] != found[1]


def _layered() -> Any:
    """A trunk that tells its depth, as timm's do."""
    from tutelage.models.zoo import create

    pytest.importorskip("timm")
    torch.manual_seed(0)
    return create("test_efficientnet", ["a", "b"], canvas=32, input_size=32, weights="none")


# --- known silent bugs


def test_trained_weights_move() -> None:
    torch.manual_seed(0)
    model = create("test_efficientnet", ["a", "b"], canvas=32, input_size=32, weights="none")
    before = copy.deepcopy(model.state_dict())
    config = TrainConfig(4, lr_head=1e-2, lr_trunk=1e-2, layer_decay=0.8, log_every=1)
    result = train(model, tiny.batches(4), supervised_step, config, device=tiny.CPU)
    for one in (model, result.model):
        for name, value in one.state_dict().items():
            assert not torch.equal(value, before[name]), f"{name} never changed"


def test_frozen_weights_stay() -> None:
    model = tiny.classifier()
    model.freeze_trunk()
    before = copy.deepcopy(model.state_dict())
    result = train(model, tiny.batches(3), supervised_step, TrainConfig(3), device=tiny.CPU)
    for one in (model, result.model):
        for name, value in one.state_dict().items():
            moved = not torch.equal(value, before[name])
            assert moved == name.startswith("head."), f"{name}: moved is {moved}"

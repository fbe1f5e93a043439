import copy

import tiny
import torch

from tutelage.models.classifier import EMA


def test_ema_is_the_average_by_hand_and_includes_batch_norm() -> None:
    model = tiny.classifier()
    ema = EMA(model, decay=0.9)
    average = {n: v.clone() for n, v in model.state_dict().items() if v.is_floating_point()}
    assert any("running_var" in name for name in average)
    for number in range(1, 5):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(number)
        ema.update(model)
        decay = min(0.9, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            if name in average:
                average[name] = decay * average[name] + (1 - decay) * value
    for name, value in average.items():
        torch.testing.assert_close(ema.model.state_dict()[name], value)
    assert int(ema.model.state_dict()["trunk.1.num_batches_tracked"]) == 10


def test_ema_of_a_model_that_stands_still_is_that_model() -> None:
    model = tiny.classifier()
    ema = EMA(model, decay=0.5)
    for _ in range(3):
        ema.update(model)
    torch.testing.assert_close(ema.model.state_dict(), model.state_dict())


def test_the_average_is_in_eval_mode_without_gradient_and_the_model_stays_as_it_was() -> None:
    model = tiny.classifier().train()
    ema = EMA(model, decay=0.5)
    assert not any(module.training for module in ema.model.modules())
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


# --- known silent bugs


def test_ema_averages_the_buffers() -> None:
    model = tiny.classifier()
    ema = EMA(model, decay=0.5)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(3)
    ema.update(model)
    decay = min(0.5, 2 / 11)
    after = ema.model.state_dict()
    names = [name for name in after if "running" in name]
    assert len(names) == 2
    for name in [*names, "head.weight", "trunk.0.weight"]:
        torch.testing.assert_close(after[name], before[name] + 3 * (1 - decay))
    assert int(after["trunk.1.num_batches_tracked"]) == 3

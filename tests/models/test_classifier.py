import copy

import pytest
import tiny
import torch
from torch import nn

from tutelage.models.classifier import EMA, Classifier
from tutelage.models.zoo import create, cut


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return create("test_efficientnet", ["a", "b", "c"], canvas=64, input_size=48, weights="none")


def images(n: int = 4, size: int = 48) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_normalisation_is_inside(model: Classifier) -> None:
    model.eval()
    mean, std = torch.tensor(model.spec.mean), torch.tensor(model.spec.std)
    by_hand = (images() - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(model.features(images()), model.trunk(by_hand))


def test_frozen_trunk_keeps_statistics_and_weights_in_train_mode(model: Classifier) -> None:
    model.freeze_trunk()
    model.train()
    wrapped = nn.Sequential(copy.deepcopy(model)).train()
    assert not any(m.training for m in wrapped[0].trunk.modules())
    before = copy.deepcopy(model.trunk.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(images()).square().sum().backward()
    optimizer.step()
    assert model.training
    assert not any(m.training for m in model.trunk.modules())
    for name, tensor in model.trunk.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert model.head.weight.grad is not None
    assert all(p.grad is None for p in model.trunk.parameters())


def test_unfrozen_trunk_learns_again(model: Classifier) -> None:
    model.eval()
    model.freeze_trunk()
    model.unfreeze_trunk()
    assert not any(m.training for m in model.modules())
    model.train()
    before = copy.deepcopy(model.trunk.state_dict())
    model(images()).square().sum().backward()
    assert all(m.training for m in model.trunk.modules())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.trunk.parameters())
    moved = [k for k, v in model.trunk.state_dict().items() if not torch.equal(v, before[k])]
    assert any(k.endswith("running_mean") for k in moved)


def test_frozen_norms_keep_their_statistics_while_their_scales_learn(model: Classifier) -> None:
    model.freeze_trunk()
    model.freeze_norms()
    model.unfreeze_trunk()
    model.train()
    before = copy.deepcopy(model.state_dict())
    model(images()).square().sum().backward()
    assert model.trunk.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_neck_of_a_student_is_not_frozen_with_the_trunk(model: Classifier) -> None:
    student = cut(model, 3, neck=20)
    student.freeze_trunk()
    assert all(p.requires_grad for p in student.neck.parameters())
    assert student.features(images()).shape == (4, 20)


@pytest.fixture
def residual() -> Classifier:
    torch.manual_seed(0)
    model = create("test_resnet", ["a", "b", "c"], canvas=64, input_size=48, weights="none")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # fresh ResNets start with silent branches
    return model


@pytest.mark.parametrize(("dropout", "paths"), [(0.9, 0.0), (0.0, 0.9)])
def test_each_noise_acts_in_training_and_not_in_evaluation(
    residual: Classifier, dropout: float, paths: float
) -> None:
    assert residual.set_noise(dropout, paths) == 4
    residual.train()
    torch.manual_seed(0)
    assert not torch.equal(residual(images()), residual(images()))
    residual.eval()
    assert torch.equal(residual(images()), residual(images()))
    residual.set_noise(0.0, 0.0)
    residual.train()
    assert torch.equal(residual(images()), residual(images()))


def test_stochastic_depth_grows_linearly_and_leaves_the_weights_alone(
    residual: Classifier,
) -> None:
    names = list(residual.state_dict())
    residual.set_noise(0.0, 0.3)
    rates = [m.drop_prob for m in residual.modules() if type(m).__name__ == "DropPath"]
    assert rates == pytest.approx([0.1, 0.2, 0.3])
    assert list(residual.state_dict()) == names


def test_stochastic_depth_reaches_the_blocks_of_lite0_that_have_a_skip() -> None:
    model = create("tf_efficientnet_lite0", ["a", "b"], canvas=64, weights="none")
    assert model.set_noise(0.0, 0.2) == 9
    assert cut(model, 5, neck=None).set_noise(0.0, 0.2) == 6
    assert cut(model, 1, neck=None).set_noise(0.0, 0.2) == 0  # nothing can be dropped


def test_heads_start_equal_and_leave_the_ambient_generator_alone(model: Classifier) -> None:
    state = torch.get_rng_state()
    again = Classifier(model.trunk, model.spec, model.num_features)
    assert torch.equal(torch.get_rng_state()[:8], state[:8])
    assert torch.equal(again.head.weight, model.head.weight)


def test_pretrained_head_and_normalisation_are_not_in_the_state(model: Classifier) -> None:
    model.pretrained_head = torch.zeros(1000, model.num_features)
    assert not [n for n in model.state_dict() if not n.startswith(("trunk.", "head."))]
    assert copy.deepcopy(model).pretrained_head is not None


def test_ema_is_the_average_of_weights_and_buffers() -> None:
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


def test_the_average_is_in_eval_mode_without_gradient_and_the_model_stays_as_it_was() -> None:
    model = tiny.classifier().train()
    ema = EMA(model, decay=0.5)
    assert not any(module.training for module in ema.model.modules())
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())

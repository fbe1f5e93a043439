import dataclasses

import numpy as np
import pytest
import torch

from tutelage.heads.probe import (
    fit_head,
    fit_joint_head,
    plain_metric,
    pretrained_metric,
    span_metric,
)


def data(n: int = 60, d: int = 6, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % k
    centres = torch.randn(k, d, generator=generator) * 1.5
    scale = torch.linspace(0.2, 3.0, d)
    features = (centres[labels] + torch.randn(n, d, generator=generator)) * scale + 5
    return features, torch.eye(k)[labels]


def test_a_metric_of_some_columns_gives_heads_that_look_at_no_others() -> None:
    features, targets = data()
    metric = plain_metric(features, slice(2, 5))
    torch.testing.assert_close(metric(features), plain_metric(features[:, 2:5])(features[:, 2:5]))
    head = fit_head(features, targets, torch.ones(60), metric, strength=5.0)
    alone = features[:, 2:5]
    other = fit_head(alone, targets, torch.ones(60), plain_metric(alone), strength=5.0)
    torch.testing.assert_close(head.weight[:, 2:5], other.weight)
    torch.testing.assert_close(head(features), other(alone))
    assert not head.weight[:, [0, 1, 5]].any()


def test_the_pretrained_metric_looks_at_the_features_of_the_old_head_only() -> None:
    features, targets = data()
    old = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    metric = pretrained_metric(features, old)
    torch.testing.assert_close(
        metric(features), pretrained_metric(features[:, :4], old)(features[:, :4])
    )
    last = pretrained_metric(features, old, slice(2, 6))
    torch.testing.assert_close(
        last(features), pretrained_metric(features[:, 2:], old)(features[:, 2:])
    )
    spanned = span_metric(metric, features[:3])
    assert spanned(features).shape == (60, 3)
    head = fit_head(features, targets, torch.ones(60), spanned, strength=5.0)
    assert not head.weight[:, 4:].any()


def test_a_joint_head_is_the_mean_of_a_head_for_each_metric() -> None:
    features, targets = data()
    metrics = [plain_metric(features, columns) for columns in (slice(2), slice(2, 6))]
    fit = {"strength": 5.0, "log_prior": torch.tensor([0.0, -1.0, 0.5])}
    joint = fit_joint_head(features, targets, torch.ones(60), metrics, **fit)
    heads = [fit_head(features, targets, torch.ones(60), metric, **fit) for metric in metrics]
    expected = (heads[0](features) + heads[1](features)) / 2
    torch.testing.assert_close(joint(features), expected)
    torch.testing.assert_close(joint.weight[:, :2], heads[0].weight[:, :2] / 2)
    alone = fit_joint_head(features, targets, torch.ones(60), metrics[:1], **fit)
    assert torch.equal(alone.weight, heads[0].weight)
    assert torch.equal(alone.bias, heads[0].bias)


@pytest.mark.parametrize("pretrained", [False, True])
def test_metric_maps_to_a_mean_squared_norm_of_one(pretrained: bool) -> None:
    features, _ = data()
    metric = plain_metric(features)
    if pretrained:
        metric = pretrained_metric(features, torch.randn(10, 6))
    mapped = metric(features)
    torch.testing.assert_close(mapped.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    assert float(mapped.square().sum(dim=1).mean()) == pytest.approx(1.0, rel=1e-3)


def test_plain_metric_survives_a_constant_feature() -> None:
    features, _ = data()
    features[:, 2] = 7.0
    mapped = plain_metric(features)(features)
    assert torch.isfinite(mapped).all()
    assert float(mapped[:, 2].abs().max()) < 1e-3


def test_pretrained_metric_is_half_the_classifiers_outputs() -> None:
    features, _ = data()
    head = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    plain, mixed = plain_metric(features), pretrained_metric(features, head)
    a, b = features[0] - features[1], features[2] - features[3]
    outputs = (features - features.mean(dim=0)) @ head.T
    size = outputs.square().sum(dim=1).mean()
    expected = (
        0.5 * (a * plain.factor) @ (b * plain.factor) + 0.5 * (a @ head.T) @ (b @ head.T) / size
    )
    found = (a @ mixed.factor) @ (b @ mixed.factor)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strength", [0.3, 10.0])
def test_head_is_scikit_learns(strength: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, targets = data()
    metric = plain_metric(features)
    head = fit_head(features, targets, torch.ones(60), metric, strength=strength)
    theirs = linear_model.LogisticRegression(C=strength, tol=1e-8, max_iter=2000)
    mapped = metric(features).double().numpy()
    theirs.fit(mapped, targets.argmax(dim=1).numpy())
    found = torch.softmax(head(features), dim=1).numpy()
    np.testing.assert_allclose(found, theirs.predict_proba(mapped), atol=2e-3)


def test_a_weight_of_two_is_an_image_twice_and_of_zero_none() -> None:
    features, targets = data(30)
    metric = plain_metric(features)
    weights = torch.tensor([2.0] * 10 + [1.0] * 10 + [0.0] * 10)
    repeated = torch.cat([torch.arange(10), torch.arange(20)])
    first = fit_head(features, targets, weights, metric, strength=5.0)
    second = fit_head(features[repeated], targets[repeated], torch.ones(30), metric, strength=5.0)
    torch.testing.assert_close(first(features), second(features), atol=2e-2, rtol=1e-2)


def test_a_soft_target_is_its_labels_in_shares() -> None:
    features, targets = data(30)
    metric = plain_metric(features)
    other = targets.roll(1, dims=1)
    soft = fit_head(features, 0.7 * targets + 0.3 * other, torch.ones(30), metric, strength=5.0)
    shares = torch.cat([torch.full((30,), 0.7), torch.full((30,), 0.3)])
    hard = fit_head(
        features.repeat(2, 1), torch.cat([targets, other]), shares, metric, strength=5.0
    )
    torch.testing.assert_close(soft(features), hard(features), atol=2e-2, rtol=1e-2)


def test_a_full_metric_and_its_diagonal_give_the_same_head() -> None:
    features, targets = data()
    plain = plain_metric(features)
    full = dataclasses.replace(plain, factor=torch.diag(plain.factor))
    heads = [
        fit_head(features, targets, torch.ones(60), metric, strength=5.0)
        for metric in (plain, full)
    ]
    torch.testing.assert_close(heads[0](features), heads[1](features), atol=1e-2, rtol=1e-2)
    assert not heads[0].weight.requires_grad

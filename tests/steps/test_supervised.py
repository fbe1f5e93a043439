import tiny
import torch
import torch.nn.functional as F

from tutelage.steps.supervised import supervised_step
from tutelage.training.batch import Batch


def test_loss_and_accuracy_by_hand() -> None:
    model = tiny.classifier().eval()
    batch = tiny.batches(1)[0]
    loss, metrics = supervised_step(model, batch)
    logits = model(batch.images)
    labels = batch.targets.argmax(dim=1)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    torch.testing.assert_close(metrics["loss"], loss.detach())
    right = (logits.argmax(dim=1) == labels).float().mean()
    assert float(metrics["train_accuracy"]) == float(right)
    assert loss.requires_grad
    assert not metrics["loss"].requires_grad


def test_weights_and_soft_targets_reach_the_loss() -> None:
    model = tiny.classifier().eval()
    batch = tiny.batches(1)[0]
    targets = 0.7 * batch.targets + 0.15
    weights = torch.linspace(0, 1, 8)
    loss, _ = supervised_step(model, Batch(batch.images, targets, weights))
    each = F.cross_entropy(model(batch.images), targets, reduction="none")
    torch.testing.assert_close(loss, (each * weights).mean())


def test_class_weights_and_the_prior_act_in_the_loss_alone() -> None:
    model = tiny.classifier().eval()
    batch = tiny.batches(1)[0]
    logits = model(batch.images)
    believed = F.one_hot(logits.argmax(dim=1), 2).float()
    believed[0] = believed[0].flip(0)  # one wrong, the others right
    targets = 0.7 * believed + 0.15
    batch = Batch(batch.images, targets, batch.weights)
    _, plain = supervised_step(model, batch)
    class_weights = torch.tensor([3.0, 0.5])
    loss, _ = supervised_step(model, batch, class_weights=class_weights)
    each = F.cross_entropy(logits, targets, weight=class_weights, reduction="none")
    torch.testing.assert_close(loss, each.mean())
    log_prior = torch.tensor([0.98, 0.02]).log()
    loss, adjusted = supervised_step(model, batch, log_prior=log_prior)
    torch.testing.assert_close(loss, F.cross_entropy(logits + log_prior, targets))
    assert 0 < float(plain["train_accuracy"]) < 1
    assert adjusted["train_accuracy"] == plain["train_accuracy"]  # as deployed: without the prior

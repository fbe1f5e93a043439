"""Learn from targets: labels, mixed labels, or the pseudo-labels of an earlier teacher."""

from __future__ import annotations

from torch import Tensor, nn

from tutelage.losses import adjust_logits, cross_entropy
from tutelage.training.batch import Batch, Metrics
from tutelage.training.together import whole


def supervised_step(
    model: nn.Module,
    batch: Batch,
    *,
    class_weights: Tensor | None = None,
    log_prior: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Cross-entropy of one view against its target.

    ``class_weights`` (K,) weigh each class's part of a target; ``log_prior`` (K,) is added to the
    logits in the loss alone (logit adjustment).
    """
    logits = whole(model(batch.images))
    targets = batch.targets if class_weights is None else batch.targets * class_weights
    loss = cross_entropy(adjust_logits(logits, log_prior), targets, batch.weights)
    right = (logits.argmax(dim=1) == batch.targets.argmax(dim=1)).float().mean()
    return loss, {"loss": loss.detach(), "train_accuracy": right}

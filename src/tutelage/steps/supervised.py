"""Learn from targets: labels, mixed labels, or the pseudo-labels of an earlier teacher."""

from __future__ import annotations

from torch import Tensor, nn

from tutelage.batch import Batch, Metrics
from tutelage.losses.cross_entropy import cross_entropy


def supervised_step(model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """Cross-entropy of one view against its target."""
    logits = model(batch.images)
    loss = cross_entropy(logits, batch.targets, batch.weights)
    right = (logits.argmax(dim=1) == batch.targets.argmax(dim=1)).float().mean()
    return loss, {"loss": loss.detach(), "train_accuracy": right}

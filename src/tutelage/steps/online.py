"""Online pseudo-labels: the weak view labels the strong view (Sohn et al. 2020, "FixMatch").

With distribution alignment (Berthelot et al. 2020, "ReMixMatch"), whose running mean is this
step's only state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tutelage.batch import Batch, Metrics
from tutelage.losses.cross_entropy import cross_entropy
from tutelage.losses.pseudo_label import pseudo_labels


class OnlinePseudoLabelStep:
    """Cross-entropy on labels plus ``unlabeled_weight`` times that on confident beliefs.

    A batch holds labelled images (weight > 0) and pool images (weight 0) together, and all
    views go through the network in one forward, so that batch norm sees one batch.
    """

    def __init__(
        self,
        prior: Tensor,
        *,
        threshold: float,
        unlabeled_weight: float,
        hard: bool = True,
        momentum: float = 0.99,
    ) -> None:
        """``prior`` (K,) is what beliefs over the pool are aligned to."""
        self.prior = prior
        self.threshold = threshold
        self.unlabeled_weight = unlabeled_weight
        self.hard = hard
        self.momentum = momentum
        self.marginal = prior.clone()

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """One step; ``batch.weak`` and ``batch.images`` are two views of the same images."""
        if batch.weak is None:
            raise ValueError("online pseudo-labels need the weak view of the batch")
        weak_logits, strong_logits = model(torch.cat([batch.weak, batch.images])).chunk(2)
        pool = batch.weights == 0
        with torch.no_grad():
            probs = torch.softmax(weak_logits.float(), dim=1)
            pool_mean = (probs * pool[:, None]).sum(dim=0) / pool.sum().clamp_min(1)
            self.marginal = torch.where(
                pool.any(),
                self.momentum * self.marginal + (1 - self.momentum) * pool_mean,
                self.marginal,
            )
            beliefs = pseudo_labels(
                probs,
                threshold=self.threshold,
                hard=self.hard,
                marginal=self.marginal,
                prior=self.prior,
            )
        # Means are over each kind's own images: how many labels share the batch must not
        # change the weight of a label.
        labels = batch.weights.sum().clamp_min(1e-6) / len(batch.weights)
        supervised = cross_entropy(weak_logits, batch.targets, batch.weights) / labels
        used = beliefs.weights * pool
        share = pool.float().mean().clamp_min(1e-6)
        unsupervised = cross_entropy(strong_logits, beliefs.targets, used) / share
        loss = supervised + self.unlabeled_weight * unsupervised
        return loss, {
            "loss": loss.detach(),
            "pseudo_labeled": used.sum() / pool.sum().clamp_min(1),
        }

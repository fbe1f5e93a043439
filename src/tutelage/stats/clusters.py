"""What the pool's own clusters say about its classes: soft k-means that starts at the labels.

A few labels place a boundary badly, but they can name the clusters that the pool falls into. Where
these are not the classes, they contradict the labels, and so would self-training, which moves
boundaries to where the pool is thin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Floats, Ints
from tutelage.stats.pseudo_labels import align_to_prior

SHARPNESS = 10.0  # of the assignment, per squared distance of unit vectors
RATE = 0.2  # by which a centre moves to its members' mean
STEPS = 20
NONE = -1e4  # logit of a class without a cluster: no belief at any temperature, and finite


@dataclass(frozen=True)
class Clusters:
    """One cluster for each class that has labels, on the unit sphere around the mean of all images.

    The bias of the logits gives the clusters the class frequencies that they were fitted to.
    """

    mean: Tensor  # (D,)
    centers: Tensor  # (K, D); 0 for a class without labels
    bias: Floats  # (K,); ``NONE`` for a class without labels

    def __call__(self, features: Tensor) -> Floats:
        """Logits (N, K) of features (N, D)."""
        return _scores(_unit(features - self.mean), self.centers) + self.bias


def fit_clusters(labeled: Tensor, labels: Ints, pool: Tensor, prior: Floats) -> Clusters:
    """Soft k-means with class frequencies held at ``prior`` (K,), on features (n, D) and (M, D).

    The MAP of Hu, Gripon and Pateux 2021, "Leveraging the Feature Distribution in Transfer-based
    Few-Shot Learning" (arXiv:2006.03806, algorithm 1), with their constants. Labelled images
    belong to their class's cluster throughout. A class without labels has no cluster and gets no
    image, so only the ratios of ``prior`` among the others count.
    """
    classes, index = np.unique(labels, return_inverse=True)
    frequencies = prior[classes]
    mean = torch.cat([labeled, pool]).mean(dim=0)
    known, unknown = _unit(labeled - mean), _unit(pool - mean)
    own = torch.eye(len(classes))[torch.from_numpy(index)]
    centers = own.T @ known / own.sum(dim=0)[:, None]
    for _ in range(STEPS):
        aligned = align_to_prior(softmax(_scores(unknown, centers)), frequencies)
        beliefs = torch.from_numpy(aligned).float()
        members = own.sum(dim=0) + beliefs.sum(dim=0)
        means = (own.T @ known + beliefs.T @ unknown) / members[:, None]
        centers = centers + RATE * (means - centers)
    free = softmax(_scores(unknown, centers))
    # Alignment multiplies each class by one number, the same for all images, and scales the rows.
    ratio = np.log(align_to_prior(free, frequencies) + 1e-30) - np.log(free + 1e-30)
    bias = np.median(ratio - ratio.mean(axis=1, keepdims=True), axis=0)
    all_centers = centers.new_zeros(len(prior), centers.shape[1])
    all_centers[torch.from_numpy(classes)] = centers
    all_biases = np.full(len(prior), NONE)
    all_biases[classes] = bias
    return Clusters(mean, all_centers, all_biases)


def _scores(unit: Tensor, centers: Tensor) -> Floats:
    """Logits (N, K): minus ``SHARPNESS`` times the squared distance to each centre, up to 1."""
    squared = centers.square().sum(dim=1) - 2 * unit @ centers.T
    return np.asarray(-SHARPNESS * squared.numpy().astype(np.float64))


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features, dim=1)


def agreement(ours: Ints, theirs: Ints, n_classes: int) -> float:
    """Cohen's kappa (1960) of two labellings (N,): 0 for chance, 1 for the same."""
    same = float((ours == theirs).mean())
    shares = [np.bincount(labels, minlength=n_classes) / len(labels) for labels in (ours, theirs)]
    chance = float(shares[0] @ shares[1])
    return 1.0 if chance == 1.0 else (same - chance) / (1.0 - chance)

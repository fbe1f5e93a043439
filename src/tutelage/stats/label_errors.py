"""Which of the given labels are likely wrong, according to models that did not learn from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.stats.calibrate import PRIOR_WEIGHT, softmax
from tutelage.stats.metrics import Floats, Ints

RIGHT_BEFORE = 20.0  # images that the belief in right labels counts as
CUT = 0.5  # above it a label is more likely wrong than right
RATES = np.linspace(0.0, 0.6, 61)


@dataclass(frozen=True)
class LabelErrors:
    """How likely each given label is wrong."""

    probability: Floats  # (n,) that the label is wrong
    rate: float  # estimated share of wrong labels among all

    @property
    def suspected(self) -> NDArray[np.bool_]:
        """(n,) labels more likely wrong than right."""
        return np.asarray(self.probability > CUT)


def find_label_errors(logits: Floats, labels: Ints) -> LabelErrors:
    """Weigh what held-out models believe, logits (n, K >= 2), against the given labels (n,).

    A label is assumed to be the true class with probability ``1 - rate``, and else any of the other
    classes with equal probability (symmetric noise: Patrini et al. 2017, arXiv:1609.03683, section
    2). The rate of wrong labels and the models' temperature are estimated together, by the
    likelihood of the labels: fitted alone, a temperature would take every wrong label for a reason
    to doubt. Few labels leave both open, so the answer is the mean over all pairs of a rate and a
    temperature, weighed by their posterior.
    """
    n, n_classes = logits.shape
    if n == 0:
        return LabelErrors(np.zeros(0), 0.0)
    temperatures = np.exp(np.linspace(np.log(0.05), np.log(20.0), 121))
    rights = np.stack([softmax(logits, t)[np.arange(n), labels] for t in temperatures])  # (T, n)
    wrongs = (1 - rights) / (n_classes - 1)
    scores = np.empty((len(RATES), len(temperatures)))
    for at, rate in enumerate(RATES):
        likelihood = (1 - rate) * rights + rate * wrongs
        scores[at] = np.log(np.clip(likelihood, 1e-12, None)).sum(axis=1)
    scores += RIGHT_BEFORE * np.log(1 - RATES)[:, None]
    scores -= PRIOR_WEIGHT * np.log(temperatures) ** 2
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    probability = np.zeros(n)
    for at, rate in enumerate(RATES):
        wrong = rate * wrongs
        share = wrong / np.clip((1 - rate) * rights + wrong, 1e-12, None)
        probability += weights[at] @ share
    return LabelErrors(probability, float(weights.sum(axis=1) @ RATES))

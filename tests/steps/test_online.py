import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from tutelage.augment import Weak
from tutelage.config import SelfTrainConfig, TrainConfig
from tutelage.steps.fixmatch import FixMatch
from tutelage.steps.online import make_online_step
from tutelage.training.loader import Loader, Views
from tutelage.training.loop import train

ONLINE = {item.name: item for item in dataclasses.fields(SelfTrainConfig)}["online"]


def online_step(method: str, **changes: Any) -> Any:
    options = {"n_pool": 8, "steps": 30, "threshold": 0.7, "hard": False, **changes}
    return make_online_step(method, torch.tensor([0.25, 0.75]), **options)


@pytest.mark.parametrize("method", ONLINE.metadata["choices"])
def test_every_online_method_trains_on_a_loaders_batches(method: str) -> None:
    images, labels = tiny.two_classes(12)
    labeled = tiny.examples(np.arange(4), labels[:4])
    pool = tiny.examples(np.arange(4, 12), np.full(8, -1))
    second = "weak" if method == "mean-teacher" else "strong"
    views = Views(Weak(), 32, **{second: Weak()})  # type: ignore[arg-type]
    loader = Loader(
        tiny.canvases(images), labeled, pool, views, batch_size=8, labeled_per_batch=2, seed=0
    )
    config = TrainConfig(4, lr_head=1e-2, lr_trunk=1e-2, log_every=1)
    model = tiny.classifier()
    before = copy.deepcopy(model.state_dict())
    result = train(model, loader, online_step(method), config, device=tiny.CPU)
    assert len(result.history) == 4
    changed = [n for n, v in model.state_dict().items() if not torch.equal(v, before[n])]
    assert len(changed) == len(before)


def test_online_methods_get_their_settings() -> None:
    fix = online_step("fixmatch")
    assert fix.method == FixMatch(0.7)
    assert not fix.hard
    assert fix.prior.tolist() == [0.25, 0.75]
    flex = online_step("flexmatch", hard=True)
    assert (flex.method.threshold, len(flex.method.marks) - 1) == (0.7, 8)
    assert flex.hard
    free = online_step("freematch")
    assert free.penalty == free.method.fairness
    assert free.prior.tolist() == [0.25, 0.75]
    soft = online_step("softmatch")
    assert soft.prior.tolist() == [0.5, 0.5]  # uniform alignment
    assert {step.momentum for step in (fix, free, free.method, soft, soft.method)} == {0.99}
    assert online_step("mean-teacher").ramp_steps == 8
    with pytest.raises(ValueError, match="'pi-model' is not an online method"):
        online_step("pi-model")

"""FixMatch and FreeMatch of USB (Wang et al. 2022; the package semilearn 0.3.2), on our splits.

The training step, mask, losses, optimiser, layer-wise rates, learning-rate curve and RandAugment
are USB's own classes and functions, called as its training loop calls them. Ours are the pixels,
the network (the shared trunk under USB's interface) and what USB can do only on a GPU or for a
fixed number of iterations: its loaders and timers, and its learning-rate curve, which here runs
over the time budget.

Settings are those of USB's configs for pretrained backbones (config/usb_cv/*_stl10_40_0.yaml:
AdamW, batch 8 + 8, no moving average, warm-up 2.5%); the views those of its get_cifar: random crop
with reflected padding, flip, and RandAugment(3, 5) with cutout. As there, the unlabelled images
include the labelled ones.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from peers.common import Clock, Draw, Photos, Trained, batches
from peers.finetune import seed_everything
from tutelage.models.classifier import Classifier
from tutelage.system.errors import TutelageError

METHODS = ("fixmatch", "freematch")
# Without aim, which semilearn also asks for: see semilearn().
NEEDS = "progress ruamel.yaml scikit-image tensorboard torchaudio transformers wandb"
COMMON: dict[str, Any] = {
    **{"epoch": 200, "num_train_iter": 204800, "num_warmup_iter": 5120},
    **{"num_eval_iter": 2048, "num_log_iter": 512, "batch_size": 8, "uratio": 1, "ema_m": 0.0},
    **{"hard_label": True, "T": 0.5, "ulb_loss_ratio": 1.0, "crop_ratio": 0.875},
    **{"optim": "AdamW", "lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4},
    **{"amp": False, "clip_grad": 0.0, "use_cat": True, "resume": False},
    **{"gpu": None, "rank": 0, "distributed": False, "world_size": 1},
    **{"save_name": "", "save_dir": "", "use_wandb": False, "use_aim": False},
    **{"use_pretrain": False, "pretrain_path": "", "net": "shared"},
}
OWN: dict[str, dict[str, Any]] = {
    "fixmatch": {"p_cutoff": 0.95, "layer_decay": 0.65},
    "freematch": {
        **{"ema_p": 0.999, "ent_loss_ratio": 0.001, "layer_decay": 0.95},
        **{"use_quantile": False, "clip_thresh": False},
    },
}


class Network(nn.Module):
    """A classifier under USB's interface: a dict of logits and features, and layers by depth."""

    def __init__(self, classifier: Classifier) -> None:
        """Train ``classifier`` itself, not a copy."""
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) and features (B, D)."""
        features = self.classifier.features(images)
        return {"logits": self.classifier.logits(features), "feat": features}

    def no_weight_decay(self) -> set[str]:
        """Names beside norms and biases: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """Parameter name -> depth, as timm numbers the trunk's layers; the head is deepest."""
        from timm.models import group_parameters

        trunk: Any = self.classifier.trunk
        depth = group_parameters(trunk, trunk.group_matcher(coarse=coarse), reverse=True)
        return lambda name: depth.get(name.removeprefix("classifier.trunk."), float("inf"))


def semilearn() -> types.SimpleNamespace:
    """The parts of semilearn that are used.

    Raises:
        TutelageError: semilearn cannot be imported.
    """
    # A logger that semilearn imports and uses only when asked to; it has no release for years.
    sys.modules.setdefault("aim", types.ModuleType("aim"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from semilearn.algorithms.fixmatch.fixmatch import FixMatch
            from semilearn.algorithms.freematch.freematch import FreeMatch
            from semilearn.core import AlgorithmBase
            from semilearn.core.hooks import ParamUpdateHook
            from semilearn.core.utils import get_cosine_schedule_with_warmup
            from semilearn.datasets.augmentation import RandAugment
        except ModuleNotFoundError as error:
            raise TutelageError(
                f"fixmatch and freematch need semilearn, and {error.name} is missing; install it "
                f"with: pip install --no-deps semilearn==0.3.2 && pip install {NEEDS}"
            ) from error
    return types.SimpleNamespace(
        algorithms={"fixmatch": FixMatch, "freematch": FreeMatch},
        base=AlgorithmBase,
        update=ParamUpdateHook,
        schedule=get_cosine_schedule_with_warmup,
        rand_augment=RandAugment,
    )


def make_algorithm(method: str, network: Network, clock: Clock, lr: float | None = None) -> Any:
    """USB's algorithm object around our network, without its loaders, timers and loggers."""
    usb = semilearn()
    settings = {**COMMON, **OWN[method], "algorithm": method, "num_classes": 0}
    settings["num_classes"] = network.classifier.head.out_features
    settings["lr"] = lr or settings["lr"]
    args = argparse.Namespace(**settings)

    class Local(usb.base):  # type: ignore[misc,name-defined]
        def set_dataset(self) -> None:
            return None

        def set_ema_model(self) -> Any:
            return self.model  # ema_m is 0: the average is the model

        def set_optimizer(self) -> Any:
            optimizer, schedule = super().set_optimizer()
            return optimizer, ByTime(optimizer, schedule.lr_lambdas[0], clock, self.num_train_iter)

        def set_hooks(self) -> None:
            self.register_hook(usb.update(), None, "HIGHEST")

    kind = type(method, (usb.algorithms[method], Local), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GradScaler without CUDA
        return kind(args, lambda **_: network, logger=_Silent())


def step(algorithm: Any, batch: dict[str, Tensor]) -> None:
    """One pass through the body of USB's training loop."""
    algorithm.call_hook("before_train_step")
    algorithm.out_dict, algorithm.log_dict = algorithm.train_step(**batch)
    algorithm.call_hook("after_train_step")
    algorithm.it += 1


class ByTime:
    """USB's learning-rate curve at the elapsed fraction of the budget."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        curve: Callable[[int], float],
        clock: Clock,
        iterations: int,
    ) -> None:
        """``curve`` gives the factor at each of ``iterations`` steps."""
        self.optimizer, self.curve = optimizer, curve
        self.clock, self.iterations = clock, iterations

    def step(self) -> None:
        """Set every group's rate."""
        factor = self.curve(int(self.clock.progress * self.iterations))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


class _Silent:
    def info(self, *_: object) -> None:
        """USB logs here."""


def views(size: int) -> tuple[Callable[[Image.Image], Tensor], Callable[[Image.Image], Any]]:
    """The weak view, and the pair (weak, strong)."""
    from torchvision import transforms

    def view(*more: Any) -> Any:
        padding = int(size * (1 - COMMON["crop_ratio"]))
        return transforms.Compose(
            [
                transforms.Resize(size),
                transforms.RandomCrop(size, padding=padding, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                *more,
                transforms.ToTensor(),  # the network normalises
            ]
        )

    weak, strong = view(), view(semilearn().rand_augment(3, 5))
    return weak, Both(weak, strong)


@dataclasses.dataclass(frozen=True)
class Both:
    """Two views of one image; a class, so that loader processes can be given it."""

    weak: Callable[[Image.Image], Tensor]
    strong: Callable[[Image.Image], Tensor]

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """The weak and the strong view."""
        return self.weak(image), self.strong(image)


def train(
    draw: Draw,
    method: Literal["fixmatch", "freematch"],
    *,
    lr: float | None = None,
    clock: Clock | None = None,
) -> Trained:
    """One of ``METHODS`` until the time is up; ``lr`` in place of USB's."""
    semilearn()  # its import takes seconds that are not training
    clock = clock or Clock(draw.seconds)
    seed_everything(draw.seed)
    classifier = copy.deepcopy(draw.base)
    # USB looks at whole images, not at their centre.
    classifier.spec = dataclasses.replace(classifier.spec, input_size=draw.size, crop_pct=1.0)
    classifier.unfreeze_trunk()
    network = Network(classifier).to(draw.device, memory_format=torch.channels_last).train()
    algorithm = make_algorithm(method, network, clock, lr)
    weak, both = views(draw.size)
    rows = np.concatenate([draw.labeled, draw.pool])
    labeled = Photos(draw.store, draw.labeled, draw.labels, weak)
    unlabeled = Photos(draw.store, rows, np.full(len(rows), -1), both)
    size = COMMON["batch_size"]
    streams = zip(
        batches(labeled, size, draw, 0),
        batches(unlabeled, size * COMMON["uratio"], draw, 1),
        strict=True,
    )
    for (x_lb, y_lb), ((x_ulb_w, x_ulb_s), _) in streams:
        batch = {"x_lb": x_lb, "y_lb": y_lb, "x_ulb_w": x_ulb_w, "x_ulb_s": x_ulb_s}
        step(algorithm, {name: tensor.to(draw.device) for name, tensor in batch.items()})
        if clock.over:
            break
    return Trained(classifier.cpu().eval(), algorithm.it, clock.spent)

"""The one model class: normalisation, trunks, neck and head in one module; and its average."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.models.spec import ModelSpec, TrunkSpec

Model = TypeVar("Model", bound=nn.Module)
_UPDATES = "updates"  # beside the tensors of an average


class Stages(nn.Module):
    """The first stages of a timm model: normalised images (B, 3, H, W) -> map (B, C, h, w)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body: Any = body

    def forward(self, x: Tensor) -> Tensor:
        """The feature map (B, C, h, w) after the last kept stage."""
        features: Tensor = self.body.forward_features(x)
        return features


class FeatureExtractor(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> features (B, D): normalisation, trunk and neck.

    The normalisation lives inside, so that no caller can use another model's mean and std.

    The trunk maps normalised images to features (B, D), or to a map (B, C, h, w) if ``spec.cut``.
    ``channels`` is that D or C; the maps of ``spec.levels`` together have ``level_channels``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, trunk: nn.Module, spec: ModelSpec, channels: int, level_channels: int = 0
    ) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = trunk
        self.neck = nn.Identity() if spec.cut is None else _neck(channels, spec.head_hidden)
        # The trunk's own features come first, and those of its levels follow.
        self.own_features = (spec.cut is not None and spec.head_hidden) or channels
        self.num_features = self.own_features + 2 * level_channels
        # Weight (K0, D) of the classifier that came with pretrained weights: a prior for the
        # probe, which is never trained, moved or saved.
        self.pretrained_head: Tensor | None = None
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B, D) of images (B, 3, H, W) in [0, 1]."""
        x = (images - self.mean) / self.std
        if not self.spec.levels:
            pooled: Tensor = self.neck(self.trunk(x))
            return pooled
        body: Any = body_of(self.trunk)
        last, maps = level_maps(body, x, self.spec.levels)
        own = self.neck(last if self.spec.cut else body.forward_head(last, pre_logits=True))
        return torch.cat([own, *(_mean_and_std(m) for m in maps)], dim=1)


class Classifier(FeatureExtractor):
    """Images (B, 3, H, W) in [0, 1] -> logits (B, K)."""

    def __init__(
        self, trunk: nn.Module, spec: ModelSpec, channels: int, level_channels: int = 0
    ) -> None:
        super().__init__(trunk, spec, channels, level_channels)
        self.head = nn.Linear(self.num_features, len(spec.classes))
        # A fixed generator: building a model is deterministic and leaves the caller's draws alone.
        nn.init.normal_(self.head.weight, std=0.01, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.head.bias)
        self.drop_rate = 0.0  # dropout before the head, in training mode only
        self.is_frozen = False  # whether the whole trunk is
        self._frozen_norms = False
        self._frozen_stages: list[nn.Module] = []

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, K) of features (B, D); dropout in training mode."""
        logits: Tensor = self.head(F.dropout(features, self.drop_rate, self.training))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W) in [0, 1]."""
        return self.logits(self.features(images))

    def freeze_trunk(self) -> None:
        """Stop the trunk's gradients and keep its batch norms and noise in evaluation mode."""
        self.is_frozen = True
        self.trunk.requires_grad_(False)
        self.trunk.eval()

    def unfreeze_trunk(self) -> None:
        """Let the trunk learn again, in the mode of the whole model."""
        self.is_frozen = False
        self.trunk.requires_grad_(True)
        self.train(self.training)

    def freeze_stages(self, count: int) -> None:
        """Freeze the stem and the first ``count`` stages: their weights and their statistics.

        They see the most pixels and so cost the most to train, and what they compute (edges,
        colours, textures) changes least from task to task. For architectures with ``blocks``
        (EfficientNet, MobileNet); others are left as they are.
        """
        body: Any = body_of(self.trunk)
        if count == 0 or not hasattr(body, "blocks") or not hasattr(body, "conv_stem"):
            return
        norm = [body.bn1] if hasattr(body, "bn1") else []  # MobileNetV5 has it in the stem
        self._frozen_stages = [body.conv_stem, *norm, *body.blocks[:count]]
        for module in self._frozen_stages:
            module.requires_grad_(False)
        self.train(self.training)

    def freeze_norms(self) -> None:
        """Keep all batch statistics as they are, whatever is trained: for batches of few images.

        Scale and shift of the norms still learn.
        """
        self._frozen_norms = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode as ``nn.Module.train`` does, but what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen:
            self.trunk.eval()
        for module in self._frozen_stages:
            module.eval()
        if self._frozen_norms:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def set_noise(self, drop_rate: float, drop_path_rate: float) -> int:
        """Set head dropout and the trunk's stochastic depth (Huang et al. 2016, eq. 4).

        The probability of dropping a residual branch rises linearly with depth from 0 to
        ``drop_path_rate``. Both act in training mode only, and never in a frozen trunk. Returns the
        number of residual branches; 0 means that ``drop_path_rate`` has nothing to act on.
        """
        from timm.layers.drop import DropPath

        self.drop_rate = drop_rate
        blocks = [(m, names) for m in self.trunk.modules() if (names := _drop_paths(m))]
        for depth, (block, names) in enumerate(blocks):
            for name in names:
                rate = drop_path_rate * depth / max(len(blocks) - 1, 1)
                path = DropPath(rate) if rate else nn.Identity()
                setattr(block, name, path.train(block.training))
        return sum(len(names) for block, names in blocks if getattr(block, "has_skip", True))


class JointTrunk(nn.Module):
    """Several trunks in one model: each normalises the view itself, and one head looks at all."""

    def __init__(self, members: Sequence[FeatureExtractor]) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """The own features of all members, then those of their middle stages."""
        own, levels = [], []
        for member in self.members:
            features = member.features(images)
            own.append(features[:, : member.own_features])
            levels.append(features[:, member.own_features :])
        return torch.cat([*own, *levels], dim=1)


def members_of(model: FeatureExtractor) -> tuple[FeatureExtractor, ...]:
    """The members of a joint model; of any other model, itself."""
    return tuple(model.trunk.members) if isinstance(model.trunk, JointTrunk) else (model,)


class Columns(NamedTuple):
    """Where the features (N, D) of one trunk lie in those of its model."""

    own: slice  # the trunk's own features
    levels: slice  # those of its middle stages; empty if it has none


def columns_of(model: FeatureExtractor) -> tuple[Columns, ...]:
    """The columns of each member; of any other model than a joint one, all of them."""
    members = members_of(model)
    widths = [member.own_features for member in members]
    widths += [member.num_features - member.own_features for member in members]
    spans = [slice(end - width, end) for end, width in zip(accumulate(widths), widths, strict=True)]
    n = len(members)
    return tuple(Columns(*pair) for pair in zip(spans[:n], spans[n:], strict=True))


def joint_spec(spec: ModelSpec, members: Sequence[FeatureExtractor]) -> ModelSpec:
    """The description of a joint model of ``members``; the rest of ``spec`` stays."""
    described = [
        TrunkSpec(**{name: getattr(member.spec, name) for name in TrunkSpec.__annotations__})
        for member in members
    ]
    return dataclasses.replace(
        spec,
        architecture="+".join(trunk.architecture for trunk in described),
        cut=None,
        head_hidden=None,
        skipped=(),
        levels=(),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        members=tuple(described),
    )


def body_of(trunk: nn.Module) -> nn.Module:
    """The timm model of a classifier's trunk, whole or cut."""
    return trunk.body if isinstance(trunk, Stages) else trunk


def has_blocks(body: Any) -> bool:
    """EfficientNet and MobileNet: timm can count every entry of their ``blocks`` as a stage.

    GhostNet and Hiera have ``blocks`` too, but show the stages of their ``feature_info`` only.
    """
    shown = getattr(body, "forward_intermediates", None)
    return shown is not None and "extra_blocks" in inspect.signature(shown).parameters


def level_maps(body: Any, x: Tensor, levels: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """A timm model's output before its pooling, and the maps (B, C, h, w) of its ``levels``.

    These are numbers of stages, from 1, as ``zoo.cut`` counts them; x (B, 3, H, W) is normalised.
    """
    if has_blocks(body):  # index 0 is the stem here
        last, maps = body.forward_intermediates(x, indices=list(levels), extra_blocks=True)
    else:
        # To the end, for the trunk's own features: Hiera would stop after the last level.
        at = [level - 1 for level in levels]
        last, maps = body.forward_intermediates(x, indices=at, stop_early=False)
    return last, maps


def _mean_and_std(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) -> means and standard deviations over the positions (B, 2 C)."""
    mean = maps.mean(dim=(2, 3), keepdim=True)
    # The constant keeps the root's gradient finite where a channel is the same everywhere.
    std = ((maps - mean).square().mean(dim=(2, 3)) + 1e-6).sqrt()
    return torch.cat([mean.flatten(1), std], dim=1)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trained and frozen, without buffers."""
    return sum(parameter.numel() for parameter in module.parameters())


def _drop_paths(module: nn.Module) -> list[str]:
    """Names of a block's stochastic depth slots; timm leaves them None or Identity at rate 0."""
    slots = {**vars(module), **module._modules}
    return [
        name
        for name, value in slots.items()
        if name.startswith("drop_path") and (value is None or isinstance(value, nn.Module))
    ]


def _neck(channels: int, width: int | None) -> nn.Sequential:
    """Map (B, channels, h, w) -> pooled (B, width or channels).

    Widening before the pooling keeps what the mean would lose; ReLU6 quantises well.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if width:
        layers["conv"] = conv = nn.Conv2d(channels, width, 1, bias=False)
        layers["norm"] = nn.BatchNorm2d(width)
        layers["act"] = nn.ReLU6()
        generator = torch.Generator().manual_seed(0)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)


class EMA(Generic[Model]):
    """An exponential moving average of a model's parameters and buffers.

    Buffers are averaged too: batch-norm statistics that lag behind averaged weights describe
    another network. Early on the decay is ``(1 + t) / (10 + t)``, so that a short run is not
    dominated by its start.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.model.requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Move the average toward ``model``."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, currents = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in averages.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in floating],
            [currents[name] for name in floating],
            1.0 - decay,
        )
        for name in averages.keys() - set(floating):
            averages[name].copy_(currents[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged model's tensors, and how often it was updated."""
        return {**self.model.state_dict(), _UPDATES: torch.tensor(self.updates)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a ``state_dict``."""
        tensors = dict(state)
        self.updates = int(tensors.pop(_UPDATES))
        self.model.load_state_dict(tensors)

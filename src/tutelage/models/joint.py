"""Several trunks in one model: each looks at the same view, and one head at all their features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.models.classifier import FeatureExtractor
from tutelage.models.spec import ModelSpec, TrunkSpec

_TRUNK_FIELDS = [field.name for field in dataclasses.fields(TrunkSpec)]


class JointTrunk(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> the features (B, D) of all members, side by side.

    First come the members' own features, then those of their middle stages. Every member
    normalises the images itself.
    """

    def __init__(self, members: Sequence[FeatureExtractor]) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, 3, H, W) in [0, 1]."""
        own, levels = [], []
        for member in self.members:
            features = member.features(images)
            own.append(features[:, : member.own_features])
            levels.append(features[:, member.own_features :])
        return torch.cat([*own, *levels], dim=1)


def members_of(model: FeatureExtractor) -> tuple[FeatureExtractor, ...]:
    """The members of a joint model; of any other model, itself."""
    return tuple(model.trunk.members) if isinstance(model.trunk, JointTrunk) else (model,)


@dataclass(frozen=True)
class Columns:
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
        TrunkSpec(**{name: getattr(member.spec, name) for name in _TRUNK_FIELDS})
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

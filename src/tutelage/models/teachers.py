"""The networks that ``tutelage teachers`` lists. Imports no torch and no timm.

The figures are from benchmarks/teachers.py, and tests compare them with timm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tutelage.system.embedded import EMBEDDED, embedded_file

FREE = ("apache-2.0", "mit", "bsd-3-clause")  # licences that allow commercial use
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a repository of timm's hub


@dataclass(frozen=True)
class Teacher:
    """One network to start from; what is not known of it is None."""

    name: str  # for --teacher
    weights: str  # timm's tag of the pretrained weights
    licence: str | None  # of the weights
    parameters: int | None  # of the trunk, without a classifier
    size: int | None  # side in pixels of the views that are planned for large images
    milliseconds: float | None  # for one view of that side, on one core
    use: str  # what it is for
    # Installed by pip, in the hub's cache on this machine, or on timm's hub.
    status: Literal["installed", "cached", "offered"] = "offered"

    @property
    def terms(self) -> str:
        """The licence, and whether it asks for a second look."""
        if self.licence is None:
            return "see its page on the hub"
        if self.licence in FREE:
            return self.licence
        if "-nc-" in self.licence:
            return f"{self.licence} (non-commercial)"
        return f"{self.licence} (read its terms first)"


OFFERED = (
    *(
        Teacher(name, "in1k", "apache-2.0", one.parameters, one.size, one.milliseconds, one.use)
        for name, one in EMBEDDED.items()
    ),
    Teacher("mobilenetv3_small_050", "lamb_in1k", "apache-2.0", 568_224, 224, 1.6,
           "the quickest of this list"),
    Teacher("mobilenetv4_hybrid_medium", "e200_r256_in12k_ft_in1k", "apache-2.0", 9_793_648,
           224, 19.8,
           "pretrained on 12,000 classes; quick for its size"),
    Teacher("efficientnet_b0", "ra_in1k", "apache-2.0", 4_007_548, 224, 14.6,
           "near the default, with squeeze-and-excitation"),
    Teacher("resnet18", "a1_in1k", "apache-2.0", 11_176_512, 224, 31.1,
           "plain convolutions, for runtimes that know little else"),
    Teacher("convnext_atto", "d2_in1k", "apache-2.0", 3_374_520, 224, 13.5,
           "a small modern convolutional network"),
    Teacher("tiny_vit_5m_224", "dist_in22k", "apache-2.0", 5_071_764, 224, 47.1,
           "distilled on 22,000 classes"),
    Teacher("vit_tiny_patch16_224", "augreg_in21k_ft_in1k", "apache-2.0", 5_524_416, 224, 26.7,
           "the smallest plain vision transformer"),
    Teacher("swin_tiny_patch4_window7_224", "ms_in1k", "mit", 27_519_354, 224, 152.7,
           "a transformer with windows, for fine detail"),
    Teacher("eva02_tiny_patch14_224", "mim_in22k", "mit", 5_502_144, 224, 49.7,
           "pretrained by masked images and CLIP features"),
    Teacher("vit_small_patch14_dinov2", "lvd142m", "apache-2.0", 22_056_192, 224, 141.8,
           "pretrained without labels: images unlike ImageNet's"),
    Teacher("vit_small_patch16_dinov3", "lvd1689m", "dinov3-license", 21_586_944, 224, 104.8,
           "the successor of DINOv2"),
    Teacher("vit_base_patch16_siglip_224", "v2_webli", "apache-2.0", 92_884_224, 224, 377.1,
           "pretrained on images with captions"),
    Teacher("vit_base_patch32_clip_224", "laion2b_ft_in12k_in1k", "apache-2.0", 87_456_000,
           224, 103.7,
           "pretrained on images with captions; few, large patches"),
    Teacher("beitv2_base_patch16_224", "in1k_ft_in22k_in1k", "apache-2.0", 85_761_984, 224, 334.8,
           "pretrained by masked images, then on 22,000 classes"),
    Teacher("convnextv2_atto", "fcmae_ft_in1k", "cc-by-nc-4.0", 3_387_400, 224, 20.7,
           "pretrained by masked images"),
    Teacher("fastvit_t8", "apple_in1k", "fastvit-license", 3_257_232, 224, 22.3,
           "convolutions and attention"),
)  # fmt: skip
"""What is worth a look; ``--teacher`` takes any name of ``timm.list_models()``."""


def list_teachers() -> list[dict[str, Any]]:
    """The teachers installed by pip, in the hub's cache, and offered; in this order."""
    cached, found = cached_weights(), []
    for teacher in OFFERED:
        tagged = f"{teacher.name}.{teacher.weights}"
        if embedded_file(teacher.name) is not None:
            teacher = replace(teacher, status="installed")
        elif tagged in cached:
            teacher = replace(teacher, status="cached")
        cached.discard(tagged)
        found.append(teacher)
    for name in sorted(cached):
        tag = name.partition(".")[2]
        found.append(Teacher(name, tag, None, None, None, None, "found in the cache", "cached"))
    order = ("installed", "cached", "offered")
    found.sort(key=lambda teacher: order.index(teacher.status))
    return [{**asdict(teacher), "terms": teacher.terms} for teacher in found]


def cached_weights() -> set[str]:
    """Names with tags, such as "resnet18.a1_in1k", of timm's weights in the hub's local cache."""
    try:
        from huggingface_hub import CacheNotFound, constants, scan_cache_dir
    except ImportError:  # the base install has none
        return set()
    try:
        repositories: Iterable[Any] = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return set()
    return {
        repository.repo_id.removeprefix("timm/")
        for repository in repositories
        if repository.repo_id.startswith("timm/")
        and any(
            file.file_name in WEIGHT_FILES
            for revision in repository.revisions
            for file in revision.files
        )
    }


def describe(rows: Sequence[dict[str, Any]]) -> str:
    """The list for people."""
    titles = {
        "installed": "installed by pip",
        "cached": "in the hub's cache on this machine",
        "offered": "on timm's hub, if it is in reach",
    }
    lines = []
    for status, title in titles.items():
        group = [row for row in rows if row["status"] == status]
        if group:
            lines += [f"{title}:", *map(_line, group), ""]
    lines += [
        "M: million parameters; ms: time for one view of that size, on one core of an Intel Xeon.",
        "--teacher takes any other name of timm.list_models(), too.",
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    size = "" if row["size"] is None else f"{row['size']} px"
    millions = "" if row["parameters"] is None else f"{row['parameters'] / 1e6:.1f} M"
    time = "" if row["milliseconds"] is None else f"{row['milliseconds']:.1f} ms"
    figures = f"{millions:>7}{size:>8}{time:>10}"
    return f"  {row['name']:<30}{figures}  {row['use']}; {row['terms']}"

"""Every family of trunks, in a small and random form, through all that a teacher goes through.

benchmarks/teachers.py does the same with whole networks at their planned sizes.
"""

from functools import partial
from typing import Any

import pytest
import scripts

timm = pytest.importorskip("timm")

with scripts.importable():
    import teachers

from tutelage.models.sizes import set_input_size, size_step  # noqa: E402

TWO = {"depth": 2}
NARROW = {"embed_dims": (16, 24, 32, 48)}
# Family -> a member, the side of its views in pixels, and what makes it small.
FORMS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "EfficientNet-lite": ("tf_efficientnet_lite0", 64, {}),
    "EfficientNet": ("test_efficientnet", 64, {}),
    "EfficientNetV2": ("test_efficientnet_gn", 64, {}),
    "MobileNetV2": ("mobilenetv2_035", 64, {}),
    "MobileNetV3": ("mobilenetv3_small_050", 64, {}),
    "MobileNetV4": ("mobilenetv4_conv_small_035", 64, {}),
    "MobileNetV4 hybrid": ("mobilenetv4_hybrid_medium_075", 64, {}),
    "MnasNet": ("mnasnet_small", 64, {}),
    "LCNet": ("lcnet_035", 64, {}),
    "GhostNet": ("ghostnet_050", 64, {}),
    "ResNet": ("test_resnet", 64, {}),
    "ResNetV2": ("resnetv2_18", 64, {"channels": (16, 32, 32, 64)}),
    "RegNetX": ("regnetx_002", 64, {}),
    "RegNetY": ("regnety_002", 64, {}),
    "ReXNet": ("rexnet_100", 64, {}),
    "DenseNet": ("densenet121", 64, {"block_config": (1, 1, 1, 1)}),
    "NFNet": ("test_nfnet", 64, {}),
    "ConvNeXt": ("test_convnext", 64, {}),
    "ConvNeXt V2": ("test_convnext2", 64, {}),
    "InceptionNeXt": ("inception_next_atto", 64, {"depths": (1, 1, 1, 1)}),
    "HGNetV2": ("hgnetv2_b0", 64, {}),
    "RepVGG": ("repvgg_a0", 64, {}),
    "MobileOne": ("mobileone_s0", 64, {}),
    "RepViT": ("repvit_m0_9", 64, {"depth": (1, 1, 1, 1)}),
    "FastViT": ("fastvit_t8", 64, {"layers": (1, 1, 1, 1)}),
    "MobileCLIP": ("fastvit_mci0", 64, {"layers": (1, 1, 1, 1)}),
    "StarNet": ("starnet_s050", 64, {}),
    "FasterNet": ("fasternet_t0", 64, {}),
    "SHViT": ("shvit_s1", 64, {"depth": (1, 1, 1)}),
    "MambaOut": ("test_mambaout", 64, {}),
    "EdgeNeXt": ("edgenext_xx_small", 64, {}),
    "MobileViT": ("mobilevit_xxs", 64, {}),
    "MobileViTV2": ("mobilevitv2_050", 64, {}),
    "EfficientViT (MIT)": ("efficientvit_b0", 64, {}),
    "EfficientViT (MSRA)": ("efficientvit_m0", 96, {"depth": (1, 1, 1)}),
    "EfficientFormer": ("efficientformer_l1", 224, {"depths": (1, 1, 1, 2), **NARROW}),
    "EfficientFormerV2": ("efficientformerv2_s0", 64, {"depths": (1, 1, 1, 2), **NARROW}),
    "SwiftFormer": ("swiftformer_xs", 64, {"layers": (1, 1, 1, 1)}),
    "PoolFormerV2": ("poolformerv2_s12", 64, {}),
    "PVT v2": ("pvt_v2_b0", 64, {}),
    "CoAtNet": ("test_coatnet", 64, {}),
    "MaxViT": ("test_maxvit", 64, {}),
    "TinyViT": ("tiny_vit_5m_224", 64, {"depths": (1, 1, 1, 1)}),
    "LeViT": ("levit_128s", 64, {}),
    "XCiT": ("xcit_nano_12_p16_224", 64, TWO),
    "CaiT": ("cait_xxs24_224", 64, TWO),
    "Hiera": ("hiera_tiny_224", 64, {"embed_dim": 24, "stages": (1, 1, 1, 1)}),
    "Swin": ("swin_tiny_patch4_window7_224", 64, {"embed_dim": 24, "depths": (1, 1, 2, 1)}),
    "Swin V2": ("swinv2_tiny_window8_256", 64, {"embed_dim": 24, "depths": (1, 1, 2, 1)}),
    "MLP-Mixer": ("mixer_s32_224", 64, {}),
    "ResMLP": ("resmlp_12_224", 64, {}),
    "ViT": ("test_vit", 64, {}),
    "DeiT": ("deit_tiny_distilled_patch16_224", 64, TWO),
    "DeiT III": ("deit3_small_patch16_224", 64, TWO),
    "DINOv2": ("vit_small_patch14_reg4_dinov2", 56, TWO),
    "DINOv3": ("vit_small_patch16_dinov3", 64, TWO),
    "SigLIP": ("vit_base_patch16_siglip_224", 64, {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "CLIP": ("vit_base_patch32_clip_224", 64, {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "EVA-02": ("eva02_tiny_patch14_224", 56, TWO),
    "BEiT": ("beit_base_patch16_224", 64, {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "BEiT v2": ("beitv2_base_patch16_224", 64, {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", 64, TWO),
}
# Those whose graphs have operators of their own; an export takes longer than all else together.
EXPORTED = ("FastViT", "EfficientViT (MIT)", "EfficientFormerV2", "MaxViT", "Swin", "DINOv2")


def test_the_families_are_those_of_the_benchmark() -> None:
    assert list(FORMS) == list(dict.fromkeys(teachers.ARCHITECTURES.values()))
    assert len(FORMS) >= 40


@pytest.mark.parametrize("family", FORMS)
def test_a_family_teaches(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, size, smaller = FORMS[family]
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **smaller))
    model = teachers.made(architecture, size)
    teachers.check_features(model)
    teachers.check_levels(model)
    teachers.check_rates(model)
    teachers.check_training(model)
    teachers.check_folder(model)
    if family in EXPORTED:
        teachers.check_export(model)
        teachers.check_resume(model)
    if step := size_step(model):
        set_input_size(model, size + (32 if step == 1 else 2 * step))
        teachers.check_features(model)

"""The networks that :mod:`scripts.sweep_models` puts through granet, by name."""

from __future__ import annotations

from typing import Any

from granet.models.torchvision_guard import import_torchvision

TIMM = (
    "beit_base_patch16_224", "cait_xxs24_224", "coat_lite_tiny", "coatnet_pico_rw_224", "convit_tiny",
    "convmixer_1024_20_ks9_p14", "convnext_atto", "crossvit_tiny_240", "cs3darknet_s", "csatv2", "davit_tiny",
    "deit_tiny_distilled_patch16_224", "dla46_c", "dpn48b", "edgenext_xx_small", "efficientformer_l1",
    "efficientformerv2_s0", "efficientnet_cc_b0_4e", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0",
    "ese_vovnet19b_slim", "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny",
    "ghostnet_050", "gmlp_ti16_224", "halonet26t", "hardcorenas_a", "hgnetv2_b0", "hiera_tiny_224", "hrnet_w18_small",
    "iformer_t", "inception_next_atto", "legacy_seresnet18", "levit_128s", "lowformer_b0", "mambaout_femto",
    "mobilenetv3_small_050", "mobileone_s0", "mobilevit_xxs", "mvitv2_tiny", "nest_tiny", "nextvit_small",
    "nf_regnet_b0", "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "repghostnet_050",
    "repvit_m0_9", "res2net50_14w_8s", "resnest14d", "resnetv2_50x1_bit", "rexnet_100", "selecsls42", "sequencer2d_s",
    "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_ns_224", "swinv2_tiny_window8_256", "tiny_vit_5m_224", "tnt_s_patch16_224", "twins_pcpvt_small",
    "visformer_tiny", "vit_relpos_small_patch16_224", "vit_tiny_patch16_224", "volo_d1_224", "xception41",
    "xcit_nano_12_p16_224",
)  # fmt: skip
"""A small member of each of timm's families, but for those that torchvision has as well."""


def names() -> tuple[str, ...]:
    """Return all classification networks of torchvision, then those of timm."""
    torchvision: Any = import_torchvision()
    own = torchvision.models.list_models(module=torchvision.models)
    return (*(f"torchvision:{name}" for name in own), *(f"timm:{name}" for name in TIMM))

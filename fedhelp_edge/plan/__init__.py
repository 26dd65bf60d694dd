"""The plan: the settings of a federation, in one TOML file.

`tables` says which keys there are, `reading` reads them, `template` writes them with their notes. The caller passes the
methods (`methods.registry`): the plan knows none.
"""

from fedhelp_edge.plan.reading import LIMIT, MethodSchema, Mistake, load, read
from fedhelp_edge.plan.tables import (
    CODE,
    ENCODER_NAME,
    FEATURE_NETS,
    HALVINGS,
    IMAGE_NETS,
    MASK_NETS,
    MAX_MASK_CLASSES,
    MAX_VIEWS,
    NETS,
    DataSettings,
    ImageSettings,
    LowRankSettings,
    MergeSettings,
    NetSettings,
    Plan,
    PrivacySettings,
    WireSettings,
    key,
)
from fedhelp_edge.plan.template import template

__all__ = [
    "CODE", "ENCODER_NAME", "FEATURE_NETS", "HALVINGS", "IMAGE_NETS", "LIMIT", "MASK_NETS", "MAX_MASK_CLASSES",
    "MAX_VIEWS", "NETS", "DataSettings", "ImageSettings", "LowRankSettings", "MergeSettings", "MethodSchema", "Mistake",
    "NetSettings", "Plan", "PrivacySettings", "WireSettings", "key", "load", "read", "template",
]  # fmt: skip

"""Read images from a folder, a table, an NPZ or DICOM into arrays that are mapped from disk."""

from fedhelp_edge.data.augment import augment
from fedhelp_edge.data.check import CheckReport, check
from fedhelp_edge.data.findings import Finding, findings, leaks, left_out, training_overlap
from fedhelp_edge.data.images import Images, Pixels, Problem
from fedhelp_edge.data.loading import load
from fedhelp_edge.data.picture import resize

__all__ = [
    "CheckReport",
    "Finding",
    "Images",
    "Pixels",
    "Problem",
    "augment",
    "check",
    "findings",
    "leaks",
    "left_out",
    "load",
    "resize",
    "training_overlap",
]  # fmt: skip

"""torchvision beside a torch without CUDA.

On Linux the registry's torchvision wheels are linked against CUDA. Beside a CPU build of torch their library cannot be
loaded. torchvision ignores that, then fails to import, because it describes operators that nobody has registered. With
their signatures registered first it imports, and whatever needs no compiled operator works
(docs/decisions/torchvision.md). Whoever wants torchvision, or open_clip which rests on it, calls `ready` before the
import.
"""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedhelp_edge.errors import MissingPackageError

_INPUTS = "Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width"
_BACKWARD = "Tensor grad, Tensor rois, {} float spatial_scale, int pooled_height, int pooled_width, {}"
_SIZES = "int batch_size, int channels, int height, int width"
_STEPS = ", ".join(f"int {name}_{side}" for name in ("stride", "pad", "dilation") for side in "hw")
_DEFORM = f"{_STEPS}, int groups, int offset_groups, bool use_mask"
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_INPUTS}, int sampling_ratio, bool aligned) -> Tensor",
    f"qroi_align({_INPUTS}, int sampling_ratio, bool aligned) -> Tensor",
    f"ps_roi_align({_INPUTS}, int sampling_ratio) -> (Tensor, Tensor)",
    f"roi_pool({_INPUTS}) -> (Tensor, Tensor)",
    f"ps_roi_pool({_INPUTS}) -> (Tensor, Tensor)",
    f"_roi_align_backward({_BACKWARD.format('', _SIZES)}, int sampling_ratio, bool aligned) -> Tensor",
    f"_ps_roi_align_backward({_BACKWARD.format('Tensor channel_mapping,', f'int sampling_ratio, {_SIZES}')}) -> Tensor",
    f"_roi_pool_backward({_BACKWARD.format('Tensor argmax,', _SIZES)}) -> Tensor",
    f"_ps_roi_pool_backward({_BACKWARD.format('Tensor channel_mapping,', _SIZES)}) -> Tensor",
    f"deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, {_DEFORM}) -> Tensor",
    "_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    f"{_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_registered: list[Any] = []  # the registrations last as long as the object that made them


def prepare() -> str:
    """Makes `import torchvision` work; returns how: "native" or "shim"."""
    module_spec = importlib.util.find_spec("torchvision")
    if module_spec is None or module_spec.origin is None:
        raise MissingPackageError("torchvision is not installed", remedy="pip install 'fedhelp-edge[foundation]'")
    if _registered:
        return "shim"
    import torch

    if torch.version.cuda is not None or _operators_load(torch, Path(module_spec.origin).parent):
        return "native"
    library = torch.library.Library("torchvision", "DEF")
    for operator in _OPERATORS:
        library.define(operator)
    _registered.append(library)
    return "shim"


def _operators_load(torch: Any, folder: Path) -> bool:
    """Whether torchvision's compiled operators load here."""
    for library in [*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]:
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return True
    return False


def installed_versions() -> dict[str, str]:
    """Versions of torch and its packages, and how torchvision loads: for `doctor`, which must not import torch."""
    versions = {}
    for package in ("torch", "torchvision", "open_clip_torch", "onnx"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = ""
    if versions["torch"]:
        import torch

        versions["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    if versions["torch"] and versions["torchvision"]:
        versions["vision"] = prepare()
        import torchvision

        versions["torchvision"] = torchvision.__version__
    return versions


if __name__ == "__main__":
    print(json.dumps(installed_versions()))

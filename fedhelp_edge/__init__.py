"""Clinics and hospitals train one diagnostic model together while every image stays at home."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Bundle",
    "Encoder",
    "Evaluation",
    "FedhelpError",
    "Images",
    "Inspected",
    "Keys",
    "MaskBundle",
    "MaskEvaluation",
    "Opened",
    "Outline",
    "Pack",
    "Plan",
    "SiteImages",
    "Statement",
    "__version__",
    "compare_plans",
    "distribute_images",
    "evaluate_site",
    "export_bundle",
    "inspect_parcel",
    "load_bundle",
    "load_encoder",
    "load_images",
    "load_keys",
    "load_mask_bundle",
    "load_pack",
    "load_public_images",
    "make_keys",
    "open_parcel",
    "outline_arrays",
    "predict_arrays",
    "predict_files",
    "read_plan",
    "run_federation",
    "seal_parcel",
    "train_site",
]

if TYPE_CHECKING:
    from fedhelp_edge.api import (
        compare_plans,
        distribute_images,
        evaluate_site,
        export_bundle,
        inspect_parcel,
        load_bundle,
        load_encoder,
        load_images,
        load_keys,
        load_mask_bundle,
        load_pack,
        load_public_images,
        make_keys,
        open_parcel,
        outline_arrays,
        predict_arrays,
        predict_files,
        read_plan,
        run_federation,
        seal_parcel,
        train_site,
    )
    from fedhelp_edge.data.images import Images
    from fedhelp_edge.data.pack import Pack
    from fedhelp_edge.encoder import Encoder
    from fedhelp_edge.errors import FedhelpError
    from fedhelp_edge.infer.bundle import Bundle, MaskBundle
    from fedhelp_edge.infer.decide import Answer
    from fedhelp_edge.infer.drawing import Outline
    from fedhelp_edge.lab.partition import SiteImages
    from fedhelp_edge.parcel.keys import Keys
    from fedhelp_edge.parcel.parcel import Inspected, Opened
    from fedhelp_edge.parcel.statement import Statement
    from fedhelp_edge.plan import Plan
    from fedhelp_edge.report.evaluation import Evaluation
    from fedhelp_edge.report.mask_evaluation import MaskEvaluation
else:  # unknown to type checkers, which would take any name for one that is here

    def __getattr__(name: str) -> Any:
        """Import the public names when the first of them is used: `import fedhelp_edge` itself takes no time."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("fedhelp_edge.api"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

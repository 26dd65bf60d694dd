"""`compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fedhelp_edge import console, shell
from fedhelp_edge.cli.options import Masks, Signer

if TYPE_CHECKING:
    from fedhelp_edge.infer.compare import ModelComparison
    from fedhelp_edge.infer.compare_masks import MaskComparison
    from fedhelp_edge.report.metrics import Figure

app = shell.app()


@app.command()
def compare(
    old: Annotated[Path, shell.path_argument("The model in use.")],
    new: Annotated[Path, shell.path_argument("The model that may replace it.")],
    images: Annotated[Path, shell.path_argument("Labelled images: a folder for each class, a table or an NPZ.")],
    masks: Masks = None,
    signer: Signer = None,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Compare two models on labelled images before you adopt the newer one, with confidence intervals.

    Training and validation images of this site are left out. Models for masks are compared on images with masks.

    Example: fedhelp-edge compare old.onnx new.onnx images
    """
    shell.check_order([old, new], ".onnx", [images], "name the two models (.onnx) first, then the images")
    import tempfile
    from dataclasses import asdict

    from fedhelp_edge.errors import UsageError
    from fedhelp_edge.infer import answer_formats, bundle, compare_masks
    from fedhelp_edge.infer import compare as comparing
    from fedhelp_edge.infer.bundle import Bundle, MaskBundle
    from fedhelp_edge.site import signer_check

    home_dir = shell.home_folder(home)
    old_model, new_model = (
        bundle.load_any_checked(path, lambda key: signer_check.model_warning(home_dir, key, signer))
        for path in (old, new)
    )
    for doubts in filter(None, map(answer_formats.trust_warning, (old_model, new_model))):
        console.say(f"warning: {doubts}")
    comparison: ModelComparison | MaskComparison
    with tempfile.TemporaryDirectory() as cache_dir:
        folders = {"cache_dir": Path(cache_dir), "state_dir": home_dir / "images"}
        if isinstance(old_model, MaskBundle) and isinstance(new_model, MaskBundle):
            comparison = compare_masks.compare(old_model, new_model, images, **folders, masks=masks)
        elif isinstance(old_model, Bundle) and isinstance(new_model, Bundle):
            if masks:
                raise UsageError("masks are for models of masks; these name classes", remedy="leave --masks away")
            comparison = comparing.compare(old_model, new_model, images, **folders)
        else:
            raise UsageError("one model names classes, and the other draws masks", remedy="name two of one kind")
    if json:
        return console.print_json(**asdict(comparison), verdict=comparison.verdict)
    _print_comparison(comparison)
    if comparison.left_out:
        console.say(f"{comparison.left_out} training or validation images of this site are left out")
    return None


def _print_comparison(comparison: ModelComparison | MaskComparison) -> None:
    console.show(f"{f'n={comparison.images}':<20}{'old':>8}{'new':>8}  difference")
    for name, label in comparison.figures.items():
        columns = "".join(
            _format_number(getattr(model_figures, name).value) for model_figures in (comparison.old, comparison.new)
        )
        console.show(f"{label:<20}{columns}  {_format_difference(getattr(comparison.difference, name))}")
    for one_class in comparison.classes:
        columns = "".join(map(_format_number, one_class.rates))
        label = f"{one_class.name}, n={one_class.images}"
        console.show(f"{label:<20}{columns}  {_format_difference(one_class.difference)}")
    console.show(f"{'not answered':<20}{comparison.old.unknown:>8}{comparison.new.unknown:>8}")
    console.show(comparison.changes, comparison.verdict)


def _format_number(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.3f'):>8}"


def _format_difference(figure: Figure) -> str:
    if figure.value is None or figure.low is None:
        return figure.reason or "-"
    return f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f})"

"""`compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fedhelp_edge import console, shell
from fedhelp_edge.cli.predict import Signer

if TYPE_CHECKING:
    from fedhelp_edge.infer.compare import Comparison
    from fedhelp_edge.report.metrics import Figure

app = shell.app()


@app.command()
def compare(
    old: Annotated[Path, shell.named("The model in use.")],
    new: Annotated[Path, shell.named("The model that may replace it.")],
    images: Annotated[Path, shell.named("Labelled images: a folder for each class, a table or an NPZ.")],
    signer: Signer = None,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Compare two models on labelled images before adopting the newer one: who gets better, who worse, how certain.

    Images that this site learned from or chose by are left out.

    Example: fedhelp-edge compare old.onnx new.onnx images
    """
    shell.check_order([old, new], ".onnx", [images], "name the two models (.onnx) first, then the images")
    import tempfile
    from dataclasses import asdict

    from fedhelp_edge.infer import bundle, show
    from fedhelp_edge.infer import compare as comparing
    from fedhelp_edge.site import vouch

    place = shell.home(home)
    one, other = (bundle.ready(path, lambda key: vouch.vouch(place, key, signer)) for path in (old, new))
    for doubts in filter(None, map(show.doubts, (one, other))):
        console.say(f"warning: {doubts}")
    with tempfile.TemporaryDirectory() as kept:
        found = comparing.compare(one, other, images, kept=Path(kept), site=place / "images")
    if json:
        return console.result(**asdict(found), verdict=found.verdict)
    _show(found)
    if found.left_out:
        console.say(f"{found.left_out} images that this site learned from or chose by are left out")
    return None


def _show(found: Comparison) -> None:
    console.show(f"{f'n={found.images}':<20}{'old':>8}{'new':>8}  difference")
    for name in ("accuracy", "balanced_accuracy", "auc"):
        sides = "".join(_number(getattr(side, name).value) for side in (found.old, found.new))
        label = "AUC" if name == "auc" else name.replace("_", " ")
        console.show(f"{label:<20}{sides}  {_gap(getattr(found.difference, name))}")
    for one in found.classes:
        sides = "".join(_number(count / one.images if one.images else None) for count in (one.old, one.new))
        console.show(f"{f'{one.name}, n={one.images}':<20}{sides}  {_gap(one.difference)}")
    console.show(f"{'not answered':<20}{found.old.unknown:>8}{found.new.unknown:>8}")
    console.show(f"only the new one is right on {found.better} images, only the old one on {found.worse}")
    console.show(found.verdict)


def _number(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.3f'):>8}"


def _gap(figure: Figure) -> str:
    if figure.value is None or figure.low is None:
        return figure.reason or "-"
    return f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f})"

"""The public names of `import fedhelp_edge as fh`, and the modules that it loads."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedhelp_edge as fh

FUNCTIONS = {
    "compare_plans", "distribute_images", "evaluate_site", "export_bundle", "inspect_parcel", "load_bundle",
    "load_encoder", "load_images", "load_keys", "load_mask_bundle", "load_pack", "load_public_images", "make_keys",
    "open_parcel", "outline_arrays", "predict_arrays", "predict_files", "read_plan", "run_federation", "seal_parcel",
    "train_site",
}  # fmt: skip
CLASSES = {
    "Answer", "Bundle", "Encoder", "Evaluation", "FedhelpError", "Images", "Inspected", "Keys", "MaskBundle",
    "MaskEvaluation", "Opened", "Outline", "Pack", "Plan", "SiteImages", "Statement",
}  # fmt: skip
ROOT = Path(__file__).parents[2]


def modules_after(code: str) -> set[str]:
    """The slow or significant modules that a new Python has loaded after this code."""
    slow = ("torch", "onnx", "onnxruntime", "numpy", "typer", "cryptography", "PIL", "fedhelp_edge.api")
    show = f"import sys; print(*[name for name in {slow!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_public_names_are_these() -> None:
    """A removed or changed name breaks other people's programs."""
    assert set(fh.__all__) == FUNCTIONS | CLASSES | {"__version__"}
    assert set(dir(fh)) >= set(fh.__all__)


@pytest.mark.parametrize("name", sorted(FUNCTIONS | CLASSES))
def test_a_public_name_equals_the_objects_own_name(name: str) -> None:
    named = getattr(fh, name)
    assert inspect.isclass(named) if name in CLASSES else inspect.isfunction(named)
    assert named.__name__ == name
    assert named.__doc__


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(fh.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [statement for statement in block.body if isinstance(statement, ast.ImportFrom)]
    assert {alias.name for statement in imports for alias in statement.names} == FUNCTIONS | CLASSES


def test_no_public_name_hides_a_room() -> None:
    """Importing a subpackage sets an attribute of its name on the package."""
    assert not set(fh.__all__) & {module.name for module in pkgutil.iter_modules(fh.__path__)}


def test_private_names_are_absent() -> None:
    with pytest.raises(AttributeError, match="run_federatoin"):
        _ = fh.run_federatoin


def test_the_import_alone_loads_nothing_else() -> None:
    assert modules_after("import fedhelp_edge") == set()


def test_reading_a_plan_needs_neither_torch_nor_onnxruntime(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('classes = ["a", "b"]')
    loaded = modules_after(f"import fedhelp_edge as fh; fh.read_plan({str(tmp_path / 'plan.toml')!r})")
    assert "fedhelp_edge.api" in loaded
    assert not loaded & {"torch", "onnx", "onnxruntime"}


def test_the_guide_shows_every_function() -> None:
    guide = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    shown = {
        name for block in re.findall(r"```python\n(.*?)```", guide, re.S) for name in re.findall(r"fh\.(\w+)", block)
    }
    named_only = {"load_encoder", "load_pack", "load_mask_bundle", "outline_arrays"}  # foundation models, and masks
    assert shown >= FUNCTIONS - named_only
    assert all(f"fh.{name}" in guide for name in named_only)

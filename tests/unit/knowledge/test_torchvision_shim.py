"""torchvision and open_clip can be imported with any installed torch after `prepare`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed (extra: foundation)"
)


def in_a_process(code: str) -> str:
    """The output of a new Python process, because a failed import stays in a process."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def prepared() -> dict[str, Any]:
    """What a fresh Python can do after `prepare`; one for all questions, since its imports take seconds."""
    code = """if True:
        import importlib.util, json
        from fedhelp_edge.knowledge import torchvision_shim as shim
        shim.prepare()
        vision = shim.prepare()
        import torch, torchvision
        size = torchvision.transforms.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape
        open_clip = importlib.util.find_spec("open_clip") and importlib.import_module("open_clip").__name__
        print(json.dumps({**shim.installed_versions(), "vision": vision, "size": size, "open_clip": open_clip}))
    """
    return dict(json.loads(in_a_process(code)))


def test_torchvision_imports_and_resizes_after_prepare(prepared: dict[str, Any]) -> None:
    assert prepared["size"] == [3, 4, 4]


def test_the_shim_is_used_only_if_the_compiled_operators_cannot_be_loaded(prepared: dict[str, Any]) -> None:
    compiled = in_a_process(
        "import torch, pathlib, importlib.util\n"
        "folder = pathlib.Path(importlib.util.find_spec('torchvision').origin).parent\n"
        "def loads(path):\n"
        "    try: torch.ops.load_library(path)\n"
        "    except OSError: return False\n"
        "    return True\n"
        "print(any([loads(path) for path in folder.glob('_C*.so')]))"
    )
    assert prepared["vision"] == ("native" if compiled == "True" else "shim")


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed")
def test_open_clip_imports_after_prepare(prepared: dict[str, Any]) -> None:
    assert prepared["open_clip"] == "open_clip"

"""torchvision and open_clip import beside whichever torch is here, once `prepare` was called."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed (extra: foundation)"
)


def in_a_process(code: str) -> str:
    """What a fresh Python prints: an import that failed once stays in a process."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_torchvision_imports_and_resizes_after_prepare() -> None:
    code = (
        "from fedhelp_edge.knowledge import torchvision_shim as shim; shim.prepare(); shim.prepare()\n"
        "import torch, torchvision\n"
        "print(tuple(torchvision.transforms.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape))"
    )
    assert in_a_process(code) == "(3, 4, 4)"


def test_the_shim_is_used_only_where_the_compiled_operators_cannot_be_loaded() -> None:
    state = json.loads(
        in_a_process("import runpy; runpy.run_module('fedhelp_edge.knowledge.torchvision_shim', run_name='__main__')")
    )
    compiled = in_a_process(
        "import torch, pathlib, importlib.util\n"
        "folder = pathlib.Path(importlib.util.find_spec('torchvision').origin).parent\n"
        "def loads(path):\n"
        "    try: torch.ops.load_library(path)\n"
        "    except OSError: return False\n"
        "    return True\n"
        "print(any([loads(path) for path in folder.glob('_C*.so')]))"
    )
    assert state["vision"] == ("native" if compiled == "True" else "shim")


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed")
def test_open_clip_imports_after_prepare() -> None:
    code = (
        "from fedhelp_edge.knowledge import torchvision_shim as shim; shim.prepare()\n"
        "import open_clip; print(open_clip.__name__)"
    )
    assert in_a_process(code) == "open_clip"

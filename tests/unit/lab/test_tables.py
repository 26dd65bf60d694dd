"""FedMD, MDH-FL and FCCL in the laboratory: sealed and interrupted runs end with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.codec import CODECS
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import KnowledgeMissingError
from fedhelp_edge.lab import run, transport
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.spec import NETS, RESNETS, Family, ResNetSize
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import schema_of

OWN = '{site-002 = "resnet20"}'  # beside two resnet8
METHOD_SETTINGS: dict[str, dict[str, str]] = {
    "fedmd": {"fedmd.public_epochs": "1", "wire.up": "f16"},
    "mdhfl": {"mdhfl.ccr": "true", "mdhfl.images": "8", "wire.up": "f16", "wire.down": "f16"},
    "fccl": {"fccl.pretrain": "1", "fccl.images": "8"},
}


@pytest.fixture(autouse=True)
def few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's nets are ResNets of some thousand numbers, of two widths."""
    for name, widths in (("resnet8", (4, 8, 16)), ("resnet20", (4, 8, 12))):
        few = ResNetSize((1, 1, 1), widths)
        family = Family(NETS[name].module, partial(spec._resnet_schema, few), widths[-1])
        monkeypatch.setitem(RESNETS, name, few)  # type: ignore[index]
        monkeypatch.setitem(NETS, name, family)  # type: ignore[index]


class Cut(Exception):
    """A simulated power cut."""


def answers(out: Path) -> dict[str, bytes]:
    with np.load(out / "answers.npz") as archive:
        return {name: archive[name].tobytes() for name in archive}


@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_a_sealed_run_that_was_interrupted_ends_as_an_open_one_that_was_not(
    plan_of: Callable[..., Plan], parts: list[SiteImages], pack: Pack, tmp_path: Path, method: str
) -> None:
    plan = plan_of(method, {**METHOD_SETTINGS[method], "nets.own": OWN})
    options: dict[str, Any] = {"compute": Compute(), "pack": pack}
    whole = run.run(plan, parts, tmp_path / "whole", **options)

    def cut(text: str) -> None:
        raise Cut(text)

    sealed = {**options, "transport": transport.SealedTransport()}
    with pytest.raises(Cut):
        run.run(plan, parts, tmp_path / "cut", progress=cut, **sealed)
    resumed = run.run(plan, parts, tmp_path / "cut", **sealed)
    assert resumed["merged_sha256"] == whole["merged_sha256"]
    assert answers(tmp_path / "cut") == answers(tmp_path / "whole")
    rows, columns = METHODS[method].up(plan, pack).tensors[0].shape
    size = CODECS[plan.wire.up].wire_schema(METHODS[plan.method].up(plan, pack)).size
    assert whole["bytes_up"] == 6 * size
    assert 0 <= size - {"f16": 2, "f32": 4}[plan.wire.up] * rows * columns < 256  # a header, and two losses
    start = spec.initial_weights(spec.schema("resnet8", spec.Form.of(plan)), 0)
    down = schema_of(start).size * (0.5 if plan.wire.down == "f16" else 1)
    assert whole["bytes_down"] < 3 * (down + 4096)  # weights in the first round only


@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_without_public_images_nothing_runs(
    plan_of: Callable[..., Plan], parts: list[SiteImages], tmp_path: Path, method: str
) -> None:
    with pytest.raises(KnowledgeMissingError, match="public images"):
        run.run(plan_of(method), parts, tmp_path / "run", compute=Compute())
    assert not (tmp_path / "run").exists()

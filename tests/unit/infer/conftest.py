from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.parcel import keys
from tests import bundles


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and the home whose key signed it."""
    folder = tmp_path_factory.mktemp("shelf")
    bundles.saved_model(folder)
    keys.save(folder / "home", bundles.site().keys, None)
    return folder


@pytest.fixture(scope="session")
def model(shelf: Path) -> Path:
    return shelf / "model.onnx"


@pytest.fixture(scope="session")
def home(shelf: Path) -> Path:
    return shelf / "home"


@pytest.fixture(scope="session")
def opened(shelf: Path) -> Iterator[Bundle]:
    yield bundles.loaded_bundle(shelf)

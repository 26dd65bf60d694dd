from __future__ import annotations

from tests.unit.infer.conftest import home as home
from tests.unit.infer.conftest import model as model
from tests.unit.infer.conftest import opened as opened
from tests.unit.infer.conftest import shelf as shelf

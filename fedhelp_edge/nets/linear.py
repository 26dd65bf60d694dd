"""A net on an encoder's features: its last layer alone."""

from __future__ import annotations

from torch import Tensor, nn

from fedhelp_edge.nets.net import Net
from fedhelp_edge.nets.spec import Form


class Linear(Net):
    """A linear layer that classifies the features of an image."""

    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        self.width = form.features
        self.linear = nn.Linear(self.width, form.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def features(self, x: Tensor) -> Tensor:
        return x

"""Adam, AdamW and SGD, by the functions of torch that its own optimisers call: the same steps, to the bit.

torch's optimiser classes import its compiler, which costs each process that trains more than a second. They also keep
hooks, closures and settings that no plan has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

Slots = dict[str, Tensor]  # what an optimiser keeps of one parameter, by name


class Optimiser(ABC):
    """Moves parameters along their gradients. Groups of them override the learning rate or the weight decay."""

    def __init__(self, groups: Sequence[Mapping[str, Any]], lr: float, weight_decay: float) -> None:
        self.param_groups = [{"lr": lr, "weight_decay": weight_decay, **group} for group in groups]
        self._slots: dict[Tensor, Slots] = {}

    @abstractmethod
    def _move(self, parameters: list[Tensor], gradients: list[Tensor], lr: float, weight_decay: float) -> None:
        """Moves the parameters of one group that have a gradient."""

    def step(self) -> None:
        """Takes one step. A parameter without a gradient stays, and so do its slots."""
        with torch.no_grad():
            for group in self.param_groups:
                moved = [parameter for parameter in group["params"] if parameter.grad is not None]
                self._move(moved, [parameter.grad for parameter in moved], group["lr"], group["weight_decay"])

    def zero_grad(self) -> None:
        """Removes all gradients."""
        for parameter in self._parameters():
            parameter.grad = None

    def slots(self) -> dict[int, Slots]:
        """The slots of each parameter that has been moved, by its index among all parameters."""
        return {index: self._slots[p] for index, p in enumerate(self._parameters()) if p in self._slots}

    def load(self, slots: Mapping[int, Slots]) -> None:
        """Continues from the slots of another optimiser of the same parameters."""
        parameters = self._parameters()
        self._slots = {
            parameters[index]: {  # Adam counts its steps on the CPU
                name: slot if name == "step" else slot.to(parameters[index].device) for name, slot in named.items()
            }
            for index, named in slots.items()
        }

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


class Adam(Optimiser):
    """Adam (Kingma and Ba, 2015) with the authors' settings. Weight decay is added to the gradient."""

    _function: Callable[..., None] = staticmethod(adam)
    _betas, _eps = (0.9, 0.999), 1e-8

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], lr: float, weight_decay: float) -> None:
        for parameter in parameters:
            if parameter not in self._slots:
                means = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self._slots[parameter] = {"step": torch.tensor(0.0), **means}
        step, mean, square = ([self._slots[p][name] for p in parameters] for name in ("step", "exp_avg", "exp_avg_sq"))
        self._function(
            parameters,
            gradients,
            mean,
            square,
            [],
            step,
            amsgrad=False,
            maximize=False,
            lr=lr,
            beta1=self._betas[0],
            beta2=self._betas[1],
            eps=self._eps,
            weight_decay=weight_decay,
        )


class AdamW(Adam):
    """AdamW (Loshchilov and Hutter, 2019) with CLIP's settings. Weight decay shrinks the weights themselves."""

    _function = staticmethod(adamw)
    _betas, _eps = (0.9, 0.98), 1e-6


class SGD(Optimiser):
    """Stochastic gradient descent with momentum. Weight decay is added to the gradient."""

    def __init__(
        self, groups: Sequence[Mapping[str, Any]], lr: float, weight_decay: float, momentum: float = 0.9
    ) -> None:
        super().__init__(groups, lr, weight_decay)
        self._momentum = momentum

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], lr: float, weight_decay: float) -> None:
        momenta = [self._slots.get(parameter, {}).get("momentum_buffer") for parameter in parameters]
        sgd(
            parameters,
            gradients,
            momenta,
            nesterov=False,
            maximize=False,
            lr=lr,
            momentum=self._momentum,
            dampening=0.0,
            weight_decay=weight_decay,
        )
        self._slots |= {p: {"momentum_buffer": m} for p, m in zip(parameters, momenta, strict=True) if m is not None}

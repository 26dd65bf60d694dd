"""Our optimisers take the steps of torch's, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedhelp_edge.methods.optimisers import SGD, Adam, AdamW, Optimiser

Groups = list[dict[str, Any]]
OURS = {"adam": Adam, "adamw": AdamW, "sgd": SGD}
TORCHS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "adam": lambda groups: torch.optim.Adam(groups, 0.02, weight_decay=0.1),
    "adamw": lambda groups: torch.optim.AdamW(groups, 0.02, (0.9, 0.98), 1e-6, weight_decay=0.1),
    "sgd": lambda groups: torch.optim.SGD(groups, 0.02, momentum=0.9, weight_decay=0.1),
}
each = pytest.mark.parametrize("kind", list(OURS))


def new_parameters() -> list[nn.Parameter]:
    numbers = torch.Generator().manual_seed(5)
    return [nn.Parameter(torch.randn(*shape, generator=numbers)) for shape in ((3, 4), (4,), (2, 3, 2, 2))]


def groups_of(parameters: list[nn.Parameter]) -> Groups:
    return [{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0}]


def push(parameters: list[nn.Parameter], step: int) -> None:
    """Gives gradients, to the second parameter in every other step only."""
    numbers = torch.Generator().manual_seed(step)
    for index, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=numbers)
        parameter.grad = None if index == 1 and step % 2 == 0 else gradient


def ours(kind: str, parameters: list[nn.Parameter]) -> Optimiser:
    return OURS[kind](groups_of(parameters), 0.02, 0.1)


def flat(slots: dict[int, dict[str, Tensor]]) -> dict[tuple[int, str], list[float]]:
    return {(index, name): slot.flatten().tolist() for index, named in slots.items() for name, slot in named.items()}


@each
def test_steps_and_slots_are_those_of_torch_to_the_bit(kind: str) -> None:
    mine, theirs = new_parameters(), new_parameters()
    optimiser, reference = ours(kind, mine), TORCHS[kind](groups_of(theirs))
    for step in range(5):
        push(mine, step), push(theirs, step)
        optimiser.step(), reference.step()
        assert [p.tolist() for p in mine] == [p.tolist() for p in theirs]
        assert flat(optimiser.slots()) == flat(reference.state_dict()["state"])


@each
def test_another_optimiser_continues_from_the_slots_with_the_same_bits(kind: str) -> None:
    mine = new_parameters()
    optimiser = ours(kind, mine)
    for step in range(2):
        push(mine, step)
        optimiser.step()
    copies = [nn.Parameter(p.detach().clone()) for p in mine]
    continued = ours(kind, copies)
    continued.load({i: {n: slot.clone() for n, slot in named.items()} for i, named in optimiser.slots().items()})
    for step in range(2, 4):
        for parameters, stepped in ((mine, optimiser), (copies, continued)):
            push(parameters, step)
            stepped.step()
    assert [p.tolist() for p in copies] == [p.tolist() for p in mine]


@each
def test_an_optimiser_has_no_slots_before_its_first_step_and_removes_all_gradients(kind: str) -> None:
    parameters = new_parameters()
    optimiser = ours(kind, parameters)
    push(parameters, 1)
    optimiser.zero_grad()
    optimiser.step()
    assert not optimiser.slots()
    assert [p.tolist() for p in parameters] == [p.tolist() for p in new_parameters()]

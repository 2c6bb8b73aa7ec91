"""A typed list of layers."""

from __future__ import annotations

from torch import nn

from nmt.layers.stack import Stack


def test_a_stack_is_a_list_of_modules() -> None:
    layers = [nn.Linear(2, 3), nn.Linear(3, 4)]
    stack = Stack(layers)
    assert list(stack) == layers
    assert len(stack) == 2
    assert len(list(stack.parameters())) == 4
    assert not list(Stack(iter([])))

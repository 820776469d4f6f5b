"""Graphs of torch modules, walked node by node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, fx

if TYPE_CHECKING:
    from collections.abc import Callable


class Recording(fx.Interpreter):
    """Runs a graph and shows the value of every tensor in it."""

    def __init__(self, graph: fx.GraphModule, see: Callable[[str, Tensor], None]) -> None:
        super().__init__(graph)
        self.see = see

    def run_node(self, n: fx.Node) -> object:
        """Run one node, and show what came out."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.see(n.name, value.detach())
        return value


def operator_name(target: object) -> str:
    """`conv2d` of `aten.conv2d.default`."""
    packet = getattr(target, "overloadpacket", target)
    return str(getattr(packet, "__name__", packet))

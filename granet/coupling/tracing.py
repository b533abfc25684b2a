"""A network as the graph of ATen operators that its forward pass runs, by ``torch.export``.

Shapes are those of the example; only sizes of channels are used, not those of batches or images.

Operators may write into their arguments. The graph follows a tensor that is written to under its own name, but not
when a view of it is written to. Where a value is read after that, everything that shares its memory is called opaque,
and no rule is applied to it.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from granet.errors import ModelError
from granet.files.user_code import described

# Operators that may hand back their argument or a view of it without saying so in their schema.
_MAY_ALIAS = {
    *("alpha_dropout", "contiguous", "dropout", "feature_alpha_dropout", "feature_dropout", "flatten", "getitem"),
    *("reshape", "reshape_as", "to", "type_as"),
}


@dataclass(frozen=True, eq=False)
class Trace:
    """The operators of a network, in the order in which they run.

    Attributes:
        nodes: all nodes of the graph, inputs and the output included.
        tensors: parameters and buffers by name; one that has several goes by the first.
        names: the nodes of parameters and buffers, and their names.
        uses: how many operators use a parameter or buffer.
        opaque: nodes whose value may change after they were computed, and those that change it.
        modules: by name.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    names: Mapping[Node, str]
    uses: Mapping[str, int]
    opaque: frozenset[Node]
    modules: Mapping[str, nn.Module]

    def shape(self, node: Node) -> tuple[int, ...]:
        """Return the shape of a tensor in the run on the example."""
        value = node.meta.get("val")
        return tuple(value.shape) if isinstance(value, Tensor) else ()

    def module(self, node: Node) -> nn.Module | None:
        """Return the innermost module that ran an operator."""
        stack = list(node.meta.get("nn_module_stack", {}).values())
        name = re.sub(r"@\d+", "", stack[-1][0] if stack else "")  # without the number of the call
        return self.modules.get(name)

    def dtype(self, node: Node) -> torch.dtype | None:
        """Return the dtype of a tensor in that run."""
        value = node.meta.get("val")
        return value.dtype if isinstance(value, Tensor) else None


def trace(model: nn.Module, example: tuple[Tensor, ...]) -> Trace:
    """Return the graph of ``model``, which is in evaluation mode, on ``example``.

    Raises:
        ModelError: torch cannot export the network; its message is part of ours.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch's own use of its own deprecated class, while it copies what it traced.
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            program = torch.export.export(model, example, strict=False)
    except Exception as error:
        raise ModelError(
            "the forward pass cannot be traced",
            where=type(model).__name__,
            got=described(error),
            remedy="torch.export has to take the network: let no branch depend on the values of tensors",
        ) from error
    nodes = tuple(program.graph.nodes)
    tensors = named_tensors(model)
    first = {id(tensor): name for name, tensor in tensors.items()}
    aliases = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    signature = program.graph_signature
    inputs = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names = {
        node: first[id(aliases[inputs[node.name]])]
        for node in nodes
        if node.op == "placeholder" and node.name in inputs
    }
    uses: Counter[str] = Counter()
    for node, name in names.items():
        uses[name] += len(node.users)
    return Trace(
        nodes=nodes,
        tensors=tensors,
        names=names,
        uses=uses,
        opaque=frozenset(_opaque(nodes)),
        modules=dict(model.named_modules(remove_duplicate=False)),
    )


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; one that has several goes by the first."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def operation(node: Node) -> str:
    """Return the name of an operator without overload and in-place underscore: ``relu``, ``conv2d``."""
    if node.target is operator.getitem:
        return "getitem"
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
        return str(node.target)
    name = node.target._schema.name.removeprefix("aten::")
    return name if name.endswith("__") else name.removesuffix("_")


def overload(node: Node) -> str:
    """Return the overload of an ATen operator: ``default``, ``Tensor``; empty for anything else."""
    return node.target._overloadname if isinstance(node.target, torch._ops.OpOverload) else ""


def arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of an ATen operator by name, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | node.kwargs
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


def _opaque(nodes: tuple[Node, ...]) -> Iterator[Node]:
    order = {node: index for index, node in enumerate(nodes)}
    for node in nodes:
        for written in _written(node):
            family = _family(written)
            late = (user for member in family if order[member] < order[node] for user in member.users)
            if any(order[user] > order[node] for user in late):
                yield from family


def _written(node: Node) -> list[Node]:
    """Return the arguments that an operator writes to."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    given, schema = arguments(node), node.target._schema.arguments
    written = (given[argument.name] for argument in schema if argument.alias_info and argument.alias_info.is_write)
    return [value for value in written if isinstance(value, Node)]


def _family(node: Node) -> set[Node]:
    """Return all nodes that may share memory with ``node``, itself included."""
    family, todo = set(), [node]
    while todo:
        member = todo.pop()
        if member not in family:
            family.add(member)
            todo += member.all_input_nodes if _may_alias(member) else []
            todo += [user for user in member.users if _may_alias(user)]
    return family


def _may_alias(node: Node) -> bool:
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    returns = node.target._schema.returns
    return operation(node) in _MAY_ALIAS or any(value.alias_info is not None for value in returns)

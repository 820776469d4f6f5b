"""A torch model as a graph of operators, each with the module it stands in; what a failing converter is about."""

from __future__ import annotations

import re
import traceback
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from edgedistill.errors import ModelError
from edgedistill.types import Operator

from .replacements import replacement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node
    from torch.nn import Module

    _Shapes = tuple[tuple[tuple[int, ...], torch.dtype], ...]

ITSELF = "(the model itself)"
"""Where an operator stands that is in no module of its own."""
_captured: WeakKeyDictionary[Module, dict[_Shapes, ExportedProgram]] = WeakKeyDictionary()
"""Model -> shapes of the inputs -> program: formats of one export share it."""


def captured(model: Module, inputs: tuple[Tensor, ...], *, strict_too: bool = False) -> ExportedProgram:
    """The model as torch.export sees it for these inputs, all shapes fixed.

    Args:
        model: a torch module in eval mode.
        inputs: tensors, by position.
        strict_too: whether the converter also tries torch.export's strict mode.

    Raises:
        ModelError: torch.export fails: control flow that depends on values, mostly. It names module and line.
    """
    import torch

    key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs)
    kept = _captured.setdefault(model, {})
    if key not in kept:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                kept[key] = torch.export.export(_interpreted(model), inputs)
            except Exception as error:
                if not strict_too:
                    raise _not_captured(model, inputs, error) from error
                with suppress(Exception):  # dynamo has many; the first error speaks of the model's own code
                    return torch.export.export(model, inputs, strict=True)
                raise _not_captured(model, inputs, error) from error
    return kept[key]


def _interpreted(model: Module) -> Module:
    """A program that was saved is run operator by operator, so that each keeps the module it came from."""
    import torch
    from torch.fx.traceback import preserve_node_meta

    class Interpreted(torch.nn.Module):
        def __init__(self, graph: torch.fx.GraphModule) -> None:
            super().__init__()
            self.graph = graph

        def forward(self, *inputs: Tensor) -> object:
            with preserve_node_meta():
                return torch.fx.Interpreter(self.graph).run(*inputs)

    inner = getattr(model, "module", None)
    return Interpreted(inner) if isinstance(inner, torch.fx.GraphModule) else model


def operators(program: ExportedProgram) -> Iterator[tuple[str, str, Node]]:
    """Operators of a program: name (`aten.sort.default`), module, node; asserts and plain Python are left out."""
    from torch._ops import OpOverload  # the class has no public name

    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, OpOverload):
            name = str(node.target)
            if "assert" not in name and not name.startswith(("aten.sym_", "profiler.")):
                yield name, module_of(node), node


def module_of(node: Node) -> str:
    """Path of the module a node stands in; empty for the model itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    path = re.sub(r"^L\['self'\]\.?|@\d+$", "", path)
    return path.removeprefix("module.") if path != "module" else ""


def lacking(program: ExportedProgram, runtime: str, why: Callable[[str, Node], str]) -> list[Operator]:
    """Operators that `why` gives a reason against, by name and node; one row a name and reason."""
    places: dict[tuple[str, str], list[str]] = {}
    for name, module, node in operators(program):
        told = why(name, node)
        if told:
            places.setdefault((_written(name, node), told), []).append(module or ITSELF)
    return [row(name, runtime, told, modules) for (name, told), modules in places.items()]


def varying(program: ExportedProgram) -> set[Node]:
    """Nodes that depend on the inputs: converters compute the others once and for all."""
    taken = set(program.graph_signature.user_inputs)
    found = {node for node in program.graph.find_nodes(op="placeholder") if node.name in taken}
    for node in program.graph.nodes:
        if any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _written(name: str, node: Node) -> str:
    """The operator as the model wrote it, before it was decomposed."""
    sources = node.meta.get("from_node")
    while sources:
        target = str(sources[0].target)
        name = target if re.fullmatch(r"\w+\.\w+\.\w+", target) else name
        sources = sources[0].from_node
    return name


def listed(program: ExportedProgram, refused: list[Operator]) -> list[Operator]:
    """The refused ones first, then all others of the program."""
    known = {f"{one.domain}.{one.type}" for one in refused}
    places: dict[str, list[str]] = {}
    for name, module, _ in operators(program):
        if name not in known:
            places.setdefault(name, []).append(module or ITSELF)
    return [*refused, *(row(name, "", "", modules) for name, modules in places.items())]


def row(name: str, runtime: str, told: str, modules: Iterable[str]) -> Operator:
    """An operator of torch; `told` is why a format does not take it, empty if it does."""
    found = list(modules)
    domain, _, kind = name.partition(".")
    custom = domain not in ("aten", "prims", "torchvision")
    instead = replacement("data-dependent" if "depends on values" in told else kind, custom=custom)
    refused = {runtime: told} if told else {}
    return Operator(domain, kind, 0, len(found), tuple(dict.fromkeys(found)), refused, instead if told else "")


def shapeless(program: ExportedProgram, runtime: str) -> list[Operator]:
    """The operator that gives an output a shape that depends on values, if one does: samples do not compare then."""
    (end,) = program.graph.find_nodes(op="output")
    if all(_fixed(node.meta.get("val")) for node in end.all_input_nodes):
        return []
    for name, module, node in operators(program):
        values = node.meta.get("val")
        if not all(_fixed(value) for value in (values if isinstance(values, tuple | list) else [values])):
            return [row(name, runtime, "it gives an output a shape that depends on values", [module or ITSELF])]
    return []


def _fixed(value: object) -> bool:
    return all(isinstance(size, int) for size in getattr(value, "shape", ()))


def blamed(error: BaseException) -> tuple[str, str]:
    """What a converter's error is about: the operator it names (empty if none), and its own most telling line."""
    chain: list[BaseException] = []
    waiting: BaseException | None = error
    while waiting is not None and waiting not in chain:
        chain.append(waiting)
        waiting = waiting.__cause__ or waiting.__context__
    text = "\n".join(re.sub(r"\x1b\[\d+m", "", str(one)) for one in chain)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    for pattern in _NAMED:
        found = re.search(pattern, text)
        if found:
            line = next(line for line in text[found.start() :].splitlines() if line.strip())
            placed = pattern in _PLACED
            return ".".join(part for part in found.groups() if part), first if placed else line.strip()
    return "", first


_PLACED = (r"target=torch\.ops\.([\w.]+)", r"<OpOverload\(op='([\w.]+)', overload='(\w+)'\)>")
"""Where it happened; what happened is said elsewhere."""
_NAMED = (
    r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>",
    r"Lowering not found: ([\w.]+)",
    r"No conversion rule found for operations: (\w+)",
    r"has no layer for (?:pnnx\.Expression, )?([\w.:]+)",
    *_PLACED,
)


def places(model: Module, inputs: tuple[Tensor, ...], name: str) -> list[str]:
    """Modules in which an operator of torch stands; none where the name is another's or torch.export fails."""
    word = re.split(r"\.|::", name)[1 if re.search(r"\.|::", name) else 0]
    try:
        program = captured(model, inputs)
    except ModelError:
        return []
    found = [module or ITSELF for own, module, _ in operators(program) if own.split(".")[1] == word]
    return list(dict.fromkeys(found))


def _not_captured(model: Module, inputs: tuple[Tensor, ...], error: Exception) -> ModelError:
    """torch.export's failure, with the module and the line it happened in."""
    lines = [line for line in re.sub(r"\x1b\[\d+m", "", str(error)).strip().splitlines() if line.strip()] or [""]
    module, place = _deepest(model, inputs), _line(error)
    told = "; ".join(part for part in (f"in {module}" if module else "", place) if part)
    depends = "data-dependent" in lines[0] or "unbacked" in lines[0]
    what = "control flow or a shape that depends on values" if depends else lines[0][:300]
    instead = replacement("data-dependent" if "shape" in lines[0] else "cond") if depends else ""
    return ModelError(
        f"torch.export cannot follow the model: {what}{f' ({told})' if told else ''}",
        where=module or place or "the model itself",
        expected="operators whose order and shapes do not depend on the values of tensors",
        got=f"{type(error).__name__}: {lines[0][:300]}",
        fix=f"write instead: {instead}" if instead else "rewrite that line with tensor operators (--debug shows all)",
    )


def _deepest(model: Module, inputs: tuple[Tensor, ...]) -> str:
    """The module that was running when torch.export failed, found by failing once more."""
    import torch

    running: list[str] = []
    with _followed(model, running), torch.no_grad(), warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        torch.export.export(model, inputs)
        return ""
    path = running[-1] if running else ""
    return path.removeprefix("module.") if path != "module" else ""


@contextmanager
def _followed(model: Module, running: list[str]) -> Iterator[None]:
    """Keep the paths of the modules that are being run, the innermost last."""
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=name: running.append(path)))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _line(error: Exception) -> str:
    """The line of the model's own code at which an error arose, `file.py:12: code`; empty if there is none."""
    import torch

    libraries = Path(torch.__file__).parents[1]
    ours = Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if (
            file.is_file()
            and libraries not in file.parents
            and file.parent != ours
            and "edgedistill" not in file.parts[-3:]
        ):
            return f"{file.name}:{frame.lineno}: {frame.line}"
    return ""

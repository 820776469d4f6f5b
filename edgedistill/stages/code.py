"""Which code a stage uses: the files that its module reaches by imports, and those of the plug-ins that it calls.

So a change redoes the stages that it can touch, and no others: a help text redoes nothing. Imports for type checkers
alone do not count. Plug-ins that are folders count whole, since what they send elsewhere is imported by nobody.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Module(Protocol):
    """What is read of a module."""

    __name__: str

    @property
    def __file__(self) -> str | None:
        """Where it stands."""
        ...


_OURS = "edgedistill"
_SHELVES = tuple(f"{_OURS}.{shelf}" for shelf in ("exporters", "devices", "benchmarks"))


def code_digest(modules: Iterable[Module]) -> str:
    """Digest of all files that these modules use: names and contents."""
    digest = hashlib.sha256()
    for name, file in sorted(files_of(modules).items()):
        digest.update(name.encode() + b"\0" + content(file))
    return digest.hexdigest()


def files_of(modules: Iterable[Module]) -> dict[str, Path]:
    """Every file that counts, by a name that is the same wherever the package is installed."""
    reached: dict[str, Path] = {}
    for module in modules:
        reached |= _reached(module.__name__, module.__name__.partition(".")[0])
        if module.__name__.startswith(_SHELVES) or module.__name__.partition(".")[0] != _OURS:
            reached |= _folder(module) | _opener(module)
    return reached


def content(file: Path) -> bytes:
    """What a file holds."""
    return file.read_bytes()


@cache
def _reached(start: str, top: str) -> dict[str, Path]:
    """The modules of this package and of `top` that are reached from a module, by name, and templates beside them."""
    found: dict[str, Path] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        file = _file_of(name) if name not in found and name.partition(".")[0] in (_OURS, top) else None
        if file is not None:
            found[name] = file
            found |= {f"{name}/{page.name}": page for page in file.parent.glob("*.html")}
            waiting += _imported(name, file)
    return found


@cache
def _imported(name: str, file: Path) -> tuple[str, ...]:
    """What a module imports, anywhere in it; names in it may be modules or not. A package's parents are reached too."""
    above = name.rpartition(".")[0]
    package = name if file.name == "__init__.py" else above
    found = [above] if above else []
    for node in _nodes(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: package.count(".") + 2 - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, but those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from _nodes(node)


@cache
def _file_of(name: str) -> Path | None:
    """The file of a module, without importing it; None for a name that is no module."""
    parent, _, last = name.rpartition(".")
    if not parent or name in _SHELVES:
        spec = importlib.util.find_spec(name)
        return Path(spec.origin) if spec is not None and spec.origin else None
    above = _file_of(parent)
    if above is None or above.name != "__init__.py":
        return None
    places = (above.parent / f"{last}.py", above.parent / last / "__init__.py")
    return next((place for place in places if place.is_file()), None)


def _opener(plugin: Module) -> dict[str, Path]:
    """The runtime file of an exporter, which the agent loads by its path, wherever it stands."""
    opener = vars(plugin).get("OPENER")
    return {f"{plugin.__name__} opener": opener} if isinstance(opener, Path) else {}


def _folder(plugin: Module) -> dict[str, Path]:
    """All files of a plug-in that is a folder."""
    if plugin.__file__ is None or Path(plugin.__file__).name != "__init__.py":
        return {}
    folder = Path(plugin.__file__).parent
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {f"{plugin.__name__}/{path.relative_to(folder).as_posix()}": path for path in files}

"""The user's own code: import by path, and the digest of what was imported.

This runs code that the recipe's author named, in the author's own process. It is never used by a service.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import sys
from typing import TYPE_CHECKING, Any

from edgedistill.errors import ModelError, nearest

if TYPE_CHECKING:
    from pathlib import Path


def import_object(reference: str, beside: Path) -> Any:
    """The object named `package.module:name`, looked up in the folder `beside`, then in the environment.

    Raises:
        ModelError: the reference is malformed, or module or name do not exist.
    """
    module_name, _, attribute = reference.partition(":")
    if not all(module_name.split(".")) or not attribute:
        raise ModelError(
            f"{reference!r} is not an import path",
            where=reference,
            expected="package.module:function",
            got=repr(reference),
            fix="name a function with a colon before it, such as my_models:teacher",
        )
    folder = str(beside.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{module_name!r} cannot be imported: {error}",
            where=reference,
            expected=f"a module beside the recipe ({beside}) or in the environment",
            got=f"{type(error).__name__}: {error}",
            fix="check the name, put the file beside the recipe, or install its package",
        ) from error
    if not hasattr(module, attribute):
        raise ModelError(
            f"the module {module_name!r} has no {attribute!r}",
            where=reference,
            expected=nearest(attribute, [n for n in vars(module) if not n.startswith("_")]),
            got=repr(attribute),
            fix="correct the name after the colon",
        )
    return getattr(module, attribute)


def call(reference: str, arguments: dict[str, Any], beside: Path) -> Any:
    """Call the named function with keyword arguments.

    Raises:
        ModelError: it cannot be imported, or the call fails.
    """
    function = import_object(reference, beside)
    try:
        return function(**arguments)
    except (Exception, SystemExit) as error:  # an exit would pass for the gate's answer
        raise ModelError(
            f"{reference} failed: {type(error).__name__}: {error}",
            where=f"{reference} with {arguments}",
            expected="a call that returns",
            got=f"{type(error).__name__}: {error}",
            fix="correct the function or its `arguments` (--debug shows its traceback)",
        ) from error


def source_digest(reference: str, beside: Path) -> str:
    """Digest of the code behind an import path, without importing it.

    Covers the module, its package, and every module of the same folder that these import, directly or
    not. For an installed package: its distribution and version. Data that the code reads is not covered.
    """
    name = reference.partition(":")[0]
    root = beside.resolve()
    found = _module_files(root, name)
    if not found:
        top = name.partition(".")[0]
        distributions = importlib.metadata.packages_distributions().get(top, [])
        versions = [f"{d}=={importlib.metadata.version(d)}" for d in sorted(set(distributions))]
        return ", ".join(versions) or f"unresolved {name}"
    digest = hashlib.sha256()
    for path in sorted(_closure(root, found)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _module_files(root: Path, name: str) -> set[Path]:
    """The files that importing `name` from the folder `root` runs: its packages' and its own."""
    parts = name.split(".")
    files = {root.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)}
    files.add(root.joinpath(*parts).with_suffix(".py"))
    return {path for path in files if path.is_file()}


def _closure(root: Path, start: set[Path]) -> set[Path]:
    """Files reachable by import statements inside `root`."""
    seen: set[Path] = set()
    waiting = set(start)
    while waiting:
        path = waiting.pop()
        seen.add(path)
        waiting |= {file for name in _imported_names(path, root) for file in _module_files(root, name)} - seen
    return seen


def _imported_names(path: Path, root: Path) -> set[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return set()  # importing it will say so
    package = path.parent.relative_to(root).parts
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name}

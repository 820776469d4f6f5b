"""Reading YAML with the line of every key, and telling what is wrong with it in the reader's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from edgedistill.errors import RecipeError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Places = dict[tuple[str, ...], str]
"""Where every key of a document stands: `line 3`, or the `--set` that gave it."""


def read_yaml(path: Path) -> tuple[dict[str, Any], Places]:
    """The document, and where every key stands."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"there is no file {str(path)!r}",
            where=str(path),
            expected="a YAML file",
            got="nothing at this path",
            fix="check the path; examples/digits.yaml is a recipe to start from",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{str(path)!r} cannot be read as text: {error}",
            where=str(path),
            expected="a YAML file in UTF-8",
            got=type(error).__name__,
            fix="give the path of a recipe",
        ) from error
    places: Places = {}
    try:
        document = yaml.safe_load(text)
        _collect_places(yaml.compose(text, Loader=yaml.SafeLoader), (), places, path)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise RecipeError(
            f"not YAML: {getattr(error, 'problem', None) or error}",
            where=f"{path}, line {mark.line + 1}" if mark else str(path),
            expected="valid YAML",
            got=str(error).splitlines()[0],
            fix="correct the indentation or the quotes at this line",
        ) from error
    if not isinstance(document, dict):
        raise RecipeError(
            "not a mapping of keys to values",
            where=str(path),
            expected="keys such as data, teacher, student, distill",
            got=type(document).__name__,
            fix="start from examples/digits.yaml",
        )
    return document, places


def _collect_places(node: yaml.Node | None, prefix: tuple[str, ...], places: Places, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            here = (*prefix, str(key.value))
            if key.value in seen:
                raise RecipeError(
                    f"the key {key.value!r} is given twice",
                    where=f"{path}, line {line}, key {'.'.join(here)}",
                    expected=f"every key once; it already stands at line {seen[key.value]}",
                    got=f"{key.value!r} again",
                    fix="delete one of the two",
                )
            seen[key.value] = line
            places[here] = f"line {line}"
            _collect_places(value, here, places, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[*prefix, str(index)] = f"line {value.start_mark.line + 1}"
            _collect_places(value, (*prefix, str(index)), places, path)


def override_key(document: dict[str, Any], override: str) -> tuple[str, ...]:
    """Apply one `a.b=c`, the value being YAML; returns the keys it names."""
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise RecipeError(
            f"--set {override!r} is not an assignment",
            where=f"--set {override}",
            expected="a.b=value",
            got=repr(override),
            fix="for example --set distill.epochs=40",
        )
    *parents, leaf = path.split(".")
    section: dict[str, Any] = document
    for parent in parents:
        below = section.get(parent)
        if below is None:
            below = section[parent] = {}
        if not isinstance(below, dict):
            raise RecipeError(
                f"--set {path}: {parent!r} is a value, not a section",
                where=f"--set {override}",
                expected=f"{parent} to have keys of its own",
                got=repr(below),
                fix=f"--set {'.'.join(parents)}=... sets it as a whole",
            )
        section = below
    try:
        section[leaf] = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(
            f"--set {path}: the value is not YAML",
            where=f"--set {override}",
            expected="a YAML value such as 0.1, true or [onnx, tflite]",
            got=repr(text),
            fix="quote the value",
        ) from error
    return (*parents, leaf)


def explain(
    error: ValidationError, section: type[BaseModel], document: dict[str, Any], path: Path, places: Places
) -> RecipeError:
    """The first mistake as a RecipeError (with the count of the others); a misspelt key before one that lacks."""
    found = [(_real_location(problem, document), problem) for problem in _of_chosen_branch(error, document)]
    problems = sorted(found, key=lambda pair: pair[1]["type"] != "extra_forbidden")
    location, problem = problems[0]
    kind, message, got = problem["type"], problem["msg"].removeprefix("Value error, "), repr(problem["input"])
    if kind.startswith("union_tag"):  # told of the section, but about the key that chooses its kind
        chooser = problem["ctx"]["discriminator"].strip("'")
        given = problem["input"].get(chooser)
        known = {tag for model in _section_at(section, location, document) for tag in _tags(model, chooser)}
        location, kind = (*location, chooser), "missing" if given is None else kind
        message = "field required" if given is None else f"unknown {chooser}"
        expectation, got = nearest(str(given or ""), known), repr(given)
    else:
        expectation = _expectation(section, location, document) or message
    key = ".".join(str(part) for part in location) or "(top level)"
    keys = tuple(str(part) for part in location)
    place = next((places[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in places), None)
    where = f"{path}{f', {place}' if place else ''}, key {key}"
    others = f" ({len(problems) - 1} more after this one)" if len(problems) > 1 else ""
    if kind == "extra_forbidden":
        name = str(location[-1])
        return RecipeError(
            f"unknown key {name!r}{others}",
            where=where,
            expected=nearest(name, _keys_at(section, location[:-1], document)),
            got=repr(name),
            fix="correct or delete the key (`edgedistill recipe schema` describes all)",
        )
    return RecipeError(
        f"{key}: {message[0].lower() + message[1:]}{others}",
        where=where,
        expected=expectation,
        got="nothing" if kind == "missing" else got,
        fix=f"{'add' if kind == 'missing' else 'correct'} {key}",
    )


def _real_location(problem: Any, document: Any) -> tuple[str | int, ...]:
    """A pydantic location without the names of union branches, which are no keys of the document."""
    location: list[str | int] = []
    for position, part in enumerate(problem["loc"]):
        last = position == len(problem["loc"]) - 1
        known = isinstance(document, dict) and part in document
        if known or (isinstance(document, list) and isinstance(part, int)):
            location.append(part)
            document = document[part] if known or part < len(document) else None
        elif last and problem["type"] == "missing":
            location.append(part)
    return tuple(location)


def _of_chosen_branch(error: ValidationError, document: dict[str, Any]) -> list[Any]:
    """Problems of the branch the writer meant, where values tell it: a mapping for `normalize` means fixed values."""
    everything = error.errors(include_url=False)
    problems = []
    for problem in everything:
        location = list(problem["loc"])
        if "normalize" in location:
            node: Any = document
            for part in location[: location.index("normalize") + 1]:
                node = node.get(part, node) if isinstance(node, dict) else node
            if ("literal" in str(location[-1])) == isinstance(node, dict):
                continue
        problems.append(problem)
    return problems or everything


def _section_at(section: type[BaseModel], location: Iterable[str | int], document: Any) -> list[type[BaseModel]]:
    """The model classes that may stand at a location."""
    found: list[type[BaseModel]] = [section]
    for part in location:
        if isinstance(part, int):
            document = document[part] if isinstance(document, list) and part < len(document) else None
        else:
            found = [
                model
                for candidate in found
                if part in candidate.model_fields
                for model in _models_in(candidate.model_fields[part].annotation)
            ]
            document = document.get(part) if isinstance(document, dict) else None
        if isinstance(document, dict):
            found = [model for model in found if _chosen(model, document)] or found
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


_CHOOSERS = ("source", "loss", "kind")
"""Keys whose value says which class a section is."""
_KIND_KEYS = ("ensemble", "model", "file", "family")
"""Keys whose presence says which kind of model a section describes."""


def _tags(model: type[BaseModel], chooser: str) -> tuple[str, ...]:
    """The values of the choosing key that mean this class."""
    return get_args(model.model_fields[chooser].annotation) if chooser in model.model_fields else ()


def _chosen(model: type[BaseModel], given: dict[str, Any]) -> bool:
    """Whether the given keys select this branch of a union."""
    for chooser in _CHOOSERS:
        if chooser in model.model_fields:
            return given.get(chooser) in _tags(model, chooser)
    own = next((key for key in _KIND_KEYS if key in model.model_fields), None)
    return own is None or own == next((key for key in _KIND_KEYS if key in given), "family")


def _keys_at(section: type[BaseModel], location: tuple[str | int, ...], document: dict[str, Any]) -> set[str]:
    return {name for model in _section_at(section, location, document) for name in model.model_fields}


def _expectation(section: type[BaseModel], location: tuple[str | int, ...], document: dict[str, Any]) -> str:
    """What the schema says about the key: its description."""
    for model in _section_at(section, location[:-1], document) if location else []:
        field = model.model_fields.get(str(location[-1]))
        if field is not None and field.description:
            return field.description
    sections = _section_at(section, location, document)
    return (sections[0].__doc__ or "").strip() if sections else ""

"""Reading YAML with the line of every key, and telling what is wrong with it in the reader's terms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Discriminator, Tag, ValidationError
from pydantic.fields import FieldInfo

from edgedistill.errors import RecipeError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails

    Chooser = str | Callable[[Any], Hashable]

Location = tuple[str | int, ...]
"""Keys and positions that lead to a value."""
Places = dict[tuple[str, ...], str]
"""Where every key of a document stands: `line 3`, or the `--set` that gave it."""


def read_yaml(path: Path) -> tuple[dict[str, object], Places]:
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


def override_key(document: dict[str, object], override: str) -> tuple[str, ...]:
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
    section: dict[str, object] = document
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
    error: ValidationError, section: type[BaseModel], document: dict[str, object], path: Path, places: Places
) -> RecipeError:
    """The first mistake as a RecipeError (with the count of the others); a misspelt key before one that lacks."""
    found = [(_real_location(problem, document), problem) for problem in _of_chosen_branch(error, section, document)]
    problems = sorted(found, key=lambda pair: pair[1]["type"] != "extra_forbidden")
    location, problem = problems[0]
    kind, message, got = problem["type"], problem["msg"].removeprefix("Value error, "), repr(problem["input"])
    if kind.startswith("union_tag"):  # told of the section, but about the key that chooses its kind
        chooser = problem.get("ctx", {})["discriminator"].strip("'")
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


def _real_location(problem: ErrorDetails, document: object) -> Location:
    """A pydantic location without the names of union branches, which are no keys of the document."""
    location: list[str | int] = []
    for position, part in enumerate(problem["loc"]):
        last = position == len(problem["loc"]) - 1
        if _is_key(part, document):
            location.append(part)
            document = _below(document, part)
        elif last and problem["type"] == "missing":
            location.append(part)
    return tuple(location)


def _is_key(part: str | int, node: object) -> bool:
    """Whether a part of a pydantic location is a key or a position in the document, and no branch of a union."""
    return (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int))


def _below(node: object, part: str | int) -> object:
    """What stands at a key or a position; None where nothing does."""
    if isinstance(node, dict):
        return node.get(part)
    return node[part] if isinstance(node, list) and isinstance(part, int) and part < len(node) else None


def _of_chosen_branch(error: ValidationError, section: type[BaseModel], document: object) -> list[ErrorDetails]:
    """Problems of the branches the writer meant, where that can be told: with a mapping a section, without one a value.

    Unions with a discriminator have problems of the chosen branch alone.
    """
    everything = error.errors(include_url=False)
    taken = [list(_branches_taken(problem["loc"], section, document)) for problem in everything]
    meant = {union for branches in taken for union, fits in branches if fits}
    fitting = [all(fits or union not in meant for union, fits in branches) for branches in taken]
    return list(compress(everything, fitting))


def _branches_taken(location: Location, section: type[BaseModel], document: object) -> Iterator[tuple[Location, bool]]:
    """Every union on the way to a problem, and whether the branch that complains is of the kind that was given."""
    keys: list[str | int] = []
    node = document
    for position, part in enumerate(location):
        if _is_key(part, node):
            keys.append(part)
            node = _below(node, part)
        else:
            sections = {model.__name__ for model in _section_at(section, keys, document)}
            is_section = not sections.isdisjoint(re.findall(r"\w+", str(part)))  # a validator's name may be around it
            yield location[:position], is_section == isinstance(node, dict)


@dataclass(frozen=True)
class _Branch:
    """A section that may stand at a key, and what tells it from the others that may.

    Attributes:
        model: the class.
        chooser: the key whose value names the class, or the function that gives its tag; None: it is the only one.
        tag: what that function gives for this class.
    """

    model: type[BaseModel]
    chooser: Chooser | None
    tag: str

    def chosen_by(self, given: dict[str, object]) -> bool:
        """Whether the given keys mean this class."""
        if isinstance(self.chooser, str):
            return given.get(self.chooser) in _tags(self.model, self.chooser)
        return self.chooser is None or self.chooser(given) == self.tag


def _section_at(section: type[BaseModel], location: Iterable[str | int], document: object) -> list[type[BaseModel]]:
    """The classes that may stand at a location: the one that its keys choose, or all of them."""
    found = [_Branch(section, None, "")]
    for part in location:
        document = _below(document, part)
        if not isinstance(part, int):
            fields = [branch.model.model_fields[part] for branch in found if part in branch.model.model_fields]
            found = [branch for field in fields for branch in _branches_of(field)]
        if isinstance(document, dict):
            found = [branch for branch in found if branch.chosen_by(document)] or found
    return [branch.model for branch in found]


def _branches_of(field: FieldInfo) -> list[_Branch]:
    return _branches_in(field.annotation, _chooser([field, *field.metadata]), "")


def _branches_in(annotation: object, chooser: Chooser | None, tag: str) -> list[_Branch]:
    """The sections that a type consists of, with what its annotations say of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [_Branch(annotation, chooser, tag)]
    alternatives = get_args(annotation)
    if get_origin(annotation) is Annotated:
        alternatives, notes = alternatives[:1], alternatives[1:]
        chooser = _chooser(notes) or chooser
        tag = next((note.tag for note in notes if isinstance(note, Tag)), tag)
    return [branch for one in alternatives for branch in _branches_in(one, chooser, tag)]


def _chooser(notes: Iterable[object]) -> Chooser | None:
    """What the first note that is about it says of choosing."""
    for note in notes:
        found = note.discriminator if isinstance(note, FieldInfo | Discriminator) else None
        if found is not None:
            return _chooser([found]) if isinstance(found, Discriminator) else found
    return None


def _tags(model: type[BaseModel], chooser: str) -> tuple[str, ...]:
    """The values of the choosing key that mean this class."""
    return get_args(model.model_fields[chooser].annotation) if chooser in model.model_fields else ()


def _keys_at(section: type[BaseModel], location: tuple[str | int, ...], document: dict[str, object]) -> set[str]:
    return {name for model in _section_at(section, location, document) for name in model.model_fields}


def _expectation(section: type[BaseModel], location: tuple[str | int, ...], document: dict[str, object]) -> str:
    """What the schema says about the key: its description."""
    for model in _section_at(section, location[:-1], document) if location else []:
        field = model.model_fields.get(str(location[-1]))
        if field is not None and field.description:
            return field.description
    sections = _section_at(section, location, document)
    return (sections[0].__doc__ or "").strip() if sections else ""

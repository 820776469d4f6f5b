"""Documents that come from outside, held against their shapes; and those shapes as JSON Schema."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from edgedistill.documents.report import REPORT_SCHEMA, Report
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails

T = TypeVar("T")
_SHOWN = 80
"""Characters of a wrong value."""
_MISSING = ("missing", "union_tag_not_found")
_AGAIN = "make the report again with this version of EdgeDistill"


def read_report(path: Path) -> Report:
    """A report.json whose fields, as far as they are there, are each of its type; unknown ones stay.

    What is missing is told by those who need it (`needing`): a gate reads little of a report.

    Raises:
        UsageError: it is none, is of another schema, or a field is of another type.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema = document["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a report: {error}",
            where=str(path),
            expected="a report.json of `edgedistill compress`",
            got=type(error).__name__,
            fix="give RUN/report.json",
        ) from error
    if schema != REPORT_SCHEMA:
        raise UsageError(
            f"{path} is of another schema",
            where=f"{path}, key schema",
            expected=REPORT_SCHEMA,
            got=repr(schema),
            fix=_AGAIN,
        )
    wrong = [error for error in _errors(document, Report) if error["type"] not in _MISSING]
    if wrong:
        raise _refusal(wrong[0], document, path, _AGAIN)
    return cast("Report", document)


@contextmanager
def needing(report: Report, path: Path) -> Iterator[None]:
    """Whoever uses a report inside is told of a field that it lacks.

    Raises:
        UsageError: naming it, with its place where that is known.
    """
    try:
        yield
    except KeyError as error:
        name = error.args[0]
        lacking = [one for one in _errors(report, Report) if one["type"] in _MISSING and one["loc"][-1] == name]
        if lacking:
            raise _refusal(lacking[0], report, path, _AGAIN) from None
        raise UsageError(
            f"{path} lacks the field {name!r}", where=str(path), expected=f"a {name}", got="nothing", fix=_AGAIN
        ) from None


def require(document: object, shape: type[T], path: Path, fix: str) -> T:
    """A document that was read from `path`, as it is, once all fields of its shape are there, each of its type.

    Raises:
        UsageError: naming the first that is missing or wrong.
    """
    for error in _errors(document, shape):
        raise _refusal(error, document, path, fix)
    return cast("T", document)  # what validation gives lacks the fields that the shape does not know


def _errors(document: object, shape: type) -> list[ErrorDetails]:
    try:
        _adapter(shape).validate_python(document, strict=True)
    except ValidationError as error:
        return error.errors()
    return []


@cache
def _adapter(shape: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(shape)


def schema() -> dict[str, JsonValue]:
    """The JSON Schema of report.json."""
    return TypeAdapter(Report).json_schema()


def _refusal(error: ErrorDetails, document: object, path: Path, fix: str) -> UsageError:
    where, got = error["loc"], error["input"]
    missing = error["type"] in _MISSING
    if error["type"].startswith("union_tag"):  # of a measurement; the source tells which kind it is
        where, got = (*where, "source"), got if missing else got["source"]
    key = _key(where, document)
    return UsageError(
        f"{path} cannot be read: {f'{key}: ' if key else ''}{error['msg']}",
        where=f"{path}, key {key}" if key else str(path),
        expected=error["msg"],
        got="nothing" if missing else repr(got)[:_SHOWN],
        fix=fix,
    )


def _key(where: tuple[int | str, ...], document: object) -> str:
    """A place in a document: `artifacts[0].quality.value`; which of several shapes was tried there is no part of it."""
    told, inside = "", document
    for number, part in enumerate(where):
        if isinstance(inside, list) and isinstance(part, int):
            told, inside = f"{told}[{part}]", inside[part]
        elif isinstance(inside, dict) and (part in inside or number == len(where) - 1):
            told, inside = f"{told}.{part}", inside.get(part)
    return told.lstrip(".")

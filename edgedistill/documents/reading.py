"""Documents that come from outside, held against their shapes; and those shapes as JSON Schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from edgedistill.documents.report import REPORT_SCHEMA, Report
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

T = TypeVar("T")
_SHOWN = 80
"""Characters of a wrong value."""


def read_report(path: Path) -> Report:
    """A report.json; what it holds beyond the known fields stays.

    Raises:
        UsageError: it is none, is of another schema, or lacks a field.
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
            fix="make the report again with this version of EdgeDistill",
        )
    return require(document, Report, path, "make the report again with this version of EdgeDistill")


def require(document: object, shape: type[T], path: Path, fix: str) -> T:
    """A document that was read from `path`, as it is, once all fields of its shape are there, each of its type.

    Raises:
        UsageError: naming the first that is missing or wrong.
    """
    try:
        TypeAdapter(shape).validate_python(document, strict=True)
    except ValidationError as error:
        raise _refusal(error.errors()[0], document, path, fix) from None
    return cast("T", document)  # what validation gives lacks the fields that the shape does not know


def schema() -> dict[str, JsonValue]:
    """The JSON Schema of report.json."""
    return TypeAdapter(Report).json_schema()


def _refusal(error: ErrorDetails, document: object, path: Path, fix: str) -> UsageError:
    where, got = error["loc"], error["input"]
    missing = error["type"] in ("missing", "union_tag_not_found")
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

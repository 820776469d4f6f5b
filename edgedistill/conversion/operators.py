"""Whether a model can be converted, asked before an hour of conversion or training: every format's refusals at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgedistill.contracts import TellsOperators
from edgedistill.errors import ModelError
from edgedistill.plugins import load_exporter, offers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.types import Array, Operator, Signature

_SHOWN = 4


def foreseen(
    model: Any,
    signature: Signature,
    formats: Sequence[str],
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> tuple[dict[str, list[Operator]], dict[str, ModelError]]:
    """What each format does not take.

    Args:
        model: a torch module in eval mode, or the path of an ONNX file.
        signature: of the model.
        formats: exporters by name; one that foresees nothing is passed over.
        examples: inputs to trace with, where made-up ones would not do.
        opset: of ONNX files.

    Returns:
        Format -> the model's operators, with those it refuses; format -> why the model cannot even be looked at.
    """
    operators: dict[str, list[Operator]] = {}
    errors: dict[str, ModelError] = {}
    for fmt in formats:
        teller = offers(load_exporter(fmt), TellsOperators)
        if teller is None:
            continue
        try:
            operators[fmt] = teller.foresee(model, signature, examples, opset)
        except ModelError as error:
            errors[fmt] = error
    return operators, errors


def require_convertible(
    model: Any,
    name: str,
    signature: Signature,
    formats: Sequence[str],
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> None:
    """Refuse a model that one of the formats will not take, naming all of them.

    Raises:
        ModelError: with the operators, their modules, and what is usually written instead.
    """
    operators, errors = foreseen(model, signature, formats, examples, opset)
    rows_refused = {fmt: [row for row in rows if row.refused] for fmt, rows in operators.items()}
    reasons = {fmt: reason_of(rows) for fmt, rows in rows_refused.items() if rows}
    reasons |= {fmt: error.message for fmt, error in errors.items()}
    if not reasons:
        return
    if len(reasons) == 1 and errors:
        raise next(iter(errors.values()))
    by_reason: dict[str, list[str]] = {}
    for fmt, reason in reasons.items():
        by_reason.setdefault(reason, []).append(fmt)
    refused = [row for rows in rows_refused.values() for row in rows]
    modules = list(dict.fromkeys(module for row in refused for module in row.modules))
    modules += [error.where for error in errors.values() if error.where not in modules]
    ways = dict.fromkeys(
        f"write {row.replacement} instead of {row.type.split('.')[0]}" for row in refused if row.replacement
    )
    ways |= dict.fromkeys(error.fix for error in errors.values() if error.fix)
    leave = f"leave {', '.join(reasons)} out (--to, export.formats)"
    raise ModelError(
        f"{name} cannot be converted to {', '.join(reasons)}",
        where=", ".join(dict.fromkeys(modules)),
        expected=f"operators that {', '.join(reasons)} {'takes' if len(reasons) == 1 else 'take'}",
        got="; ".join(f"{', '.join(fmts)}: {reason}" for reason, fmts in by_reason.items()),
        fix="; ".join([*list(ways)[:_SHOWN], f"or {leave}" if ways else leave]),
    )


def reason_of(rows: Sequence[Operator], *, instead: bool = False) -> str:
    """Refused operators with their modules and why; `instead`: and what is usually written."""
    texts = [
        f"{row.domain}.{row.type} ({_some(row.modules)}): {next(iter(row.refused.values()))}"
        + (f"; instead: {row.replacement}" if instead and row.replacement else "")
        for row in rows
    ]
    return "; ".join([*texts[:_SHOWN], *([f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else [])])


def _some(modules: Sequence[str]) -> str:
    return ", ".join([*modules[:_SHOWN], *(["..."] if len(modules) > _SHOWN else [])])

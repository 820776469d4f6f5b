"""The verdict for CI systems: JUnit XML and a Markdown summary."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from edgedistill.documents.report import GateDocument


def junit(gate: GateDocument, name: str) -> str:
    """One test case per check: fail is a failure, inconclusive and invalid are errors, skipped is skipped."""
    checks = gate["checks"]
    kinds = {"fail": "failure", "inconclusive": "error", "invalid": "error", "skipped": "skipped"}
    told = [kinds.get(check["state"]) for check in checks]
    suite = ET.Element(
        "testsuite",
        name=f"edgedistill gate: {name}",
        tests=str(len(checks)),
        failures=str(told.count("failure")),
        errors=str(told.count("error")),
        skipped=str(told.count("skipped")),
    )
    for check, kind in zip(checks, told, strict=True):
        case = ET.SubElement(suite, "testcase", classname="edgedistill.release.gate", name=check["id"])
        if kind is not None:
            ET.SubElement(case, kind, message=check["reason"], type=check["state"])
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def markdown(gate: GateDocument, name: str) -> str:
    """A job summary: the verdict, then every check, those that did not pass first."""
    lines = [f"## EdgeDistill gate: {name}: {gate['verdict']}", "", "| state | check | reason |", "|---|---|---|"]
    for check in sorted(gate["checks"], key=lambda check: check["state"] == "pass"):
        cells = (check["state"], f"`{check['id']}`", check["reason"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"

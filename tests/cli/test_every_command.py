"""What holds for every command, whoever adds it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import pytest
import typer

from edgedistill.cli import main as command_line
from edgedistill.cli.common import Answer, command, say
from edgedistill.cli.main import app, main
from edgedistill.stages import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def walked(family: typer.Typer, *before: str) -> Iterator[str]:
    """Every command as it is typed."""
    for one in family.registered_commands:
        assert one.callback is not None
        yield " ".join((*before, one.name or one.callback.__name__))
    for group in family.registered_groups:
        assert group.typer_instance is not None
        yield from walked(group.typer_instance, *before, str(group.name))


COMMANDS = list(walked(app))
FAILING = {
    "compress": "none.yaml",
    "gate": "none.json --policy none.yaml",
    "report": "none",
    "bundle": "none -o out",
    "verify": "none",
    "benchmark": "none.onnx",
    "export": "none.onnx -o out",
    "parity": "none.onnx none.onnx",
    "operators": "none.onnx",
    "layers": "none.yaml",
    "recipe check": "none.yaml",
    "devices bootstrap": "cpu",
    "devices show": "none",
    "devices predict": "none.onnx",
    "devices calibrate": "--name none",
}
NOISE = b"a library talks\n"
ANSWERING = ["doctor", "plugins", "recipe schema", "devices list", "arm status"]
"""They take nothing that could be wrong."""


def document(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one document on stdout, and no traceback beside it."""
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_it_has_json_and_debug_last(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    told = [line.split()[0] for line in capfd.readouterr().out.splitlines() if line.startswith("  --")]
    assert told[-3:] == ["--json", "--debug", "--help"]


@pytest.mark.parametrize("family", ["", "recipe", "devices", "arm"])
def test_a_family_lists_its_commands(family: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*family.split(), "--help"]) == 0
    told = [line.split()[0] for line in capfd.readouterr().out.split("Commands:\n")[1].splitlines() if line]
    own = [name.removeprefix(family).split()[0] for name in COMMANDS if name.startswith(family)]
    assert told == list(dict.fromkeys(own))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_option_is_one_document(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--no-such-option", "--json"]) == 2
    error = document(capfd)["error"]
    assert error["code"] == "usage_error"
    assert "--no-such-option" in error["message"]


@pytest.mark.parametrize("name", FAILING)
def test_what_it_refuses_is_one_document(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main([*name.split(), *FAILING[name].split(), "--json"])
    error = document(capfd)["error"]
    assert code == error["exit_code"] in (2, 3)
    assert error["message"]


@pytest.mark.parametrize("name", ANSWERING)
def test_what_it_answers_is_one_document(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--json"]) in (0, 3)
    assert "error" not in document(capfd)


def test_no_command_is_left_out() -> None:
    assert set(COMMANDS) == {*FAILING, *ANSWERING, "arm setup"}, "setup would download"


def test_the_stages_are_told_by_the_help_of_until(capfd: pytest.CaptureFixture[str]) -> None:
    main(["compress", "--help"])
    assert f"Last stage to do: {' '.join(NAMES)}." in " ".join(capfd.readouterr().out.split())


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that talk out of turn."""

    @command
    def answer(number: Annotated[int, typer.Argument(help="To return.")] = 0) -> Answer:
        """Answer."""
        os.write(1, NOISE)
        return Answer({"number": number}, lambda: say(f"the number {number}"), number)

    @command
    def fail() -> Answer:
        """Fail as no command should."""
        os.write(1, NOISE)
        raise ValueError("unforeseen")

    made = typer.Typer(pretty_exceptions_enable=False)
    made.command()(answer)
    made.command()(fail)
    monkeypatch.setattr(command_line, "app", made)


@pytest.mark.usefixtures("own")
def test_an_answer_is_shown_or_printed_and_gives_the_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["answer", "3"]) == 3
    assert capfd.readouterr().out == "a library talks\nthe number 3\n"
    assert main(["answer", "3", "--json"]) == 3
    assert document(capfd) == {"number": 3}


@pytest.mark.usefixtures("own")
def test_a_mistake_of_ours_is_one_document_and_a_traceback_with_debug(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", "--json"]) == 4
    assert document(capfd)["error"] == {
        "code": "internal_error",
        "exit_code": 4,
        "message": "internal error: ValueError: unforeseen",
        "where": "",
        "expected": "",
        "got": "",
        "fix": "--debug shows the traceback; please report it",
    }
    assert main(["fail"]) == 4
    assert capfd.readouterr().err.startswith("error: internal error: ValueError: unforeseen\nfix: --debug")
    with pytest.raises(ValueError, match="unforeseen"):
        main(["fail", "--debug"])

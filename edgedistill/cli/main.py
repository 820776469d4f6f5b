"""The command line, put together; and what becomes of every outcome: one document, one message, one exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, cast

import typer

from edgedistill.cli.arm import setup, status
from edgedistill.cli.benchmark import benchmark
from edgedistill.cli.common import Stdout, complain, emit
from edgedistill.cli.compress import compress, recipe_check, recipe_schema
from edgedistill.cli.devices import bootstrap, devices_list, devices_show
from edgedistill.cli.doctor import doctor, plugins
from edgedistill.cli.export import export
from edgedistill.cli.layers import layers
from edgedistill.cli.operators import operators
from edgedistill.cli.parity import parity
from edgedistill.cli.predict import calibrate, predict
from edgedistill.cli.release import bundle, gate, report, verify
from edgedistill.errors import EdgeDistillError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def _family(text: str, commands: Mapping[str, Callable[..., int]]) -> typer.Typer:
    """Commands under one name; help tells them in this order."""
    family = typer.Typer(help=text, no_args_is_help=True)
    for name, one in commands.items():
        family.command(name)(one)
    return family


app = typer.Typer(
    help="Distil a large model into a small one, export it to every edge runtime, prove it equal, measure it, and gate the release.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
for _one in (compress, gate, report, bundle, verify, benchmark, export, parity, operators, layers, doctor, plugins):
    app.command()(_one)
_recipe = {"schema": recipe_schema, "check": recipe_check}
_devices = {"bootstrap": bootstrap, "list": devices_list, "show": devices_show}
_devices |= {"predict": predict, "calibrate": calibrate}
_arm = {"setup": setup, "status": status}
app.add_typer(_family("Recipes: their schema, and a dry check.", _recipe), name="recipe")
app.add_typer(_family("Devices where artifacts can run.", _devices), name="devices")
app.add_typer(_family("The ARM emulator: outputs and instruction counts on ARM cores.", _arm), name="arm")

# click's ClickException, or that of the copy newer typer carries; both have BadParameter's format_message
_WrongUse = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])


class _InternalError(EdgeDistillError):
    """What no user has caused."""

    code = "internal_error"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and turn every outcome into an exit code; the console script's entry."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if int(os.environ.get("RANK", "0")) > 0 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _follow()
    as_json, debug = "--json" in arguments, "--debug" in arguments
    with Stdout(as_json):
        try:
            return int(app(arguments, standalone_mode=False, prog_name="edgedistill") or 0)
        except typer.Abort:
            return 130
        except KeyboardInterrupt:
            complain("interrupted; the same command goes on from the last finished stage")
            return 130
        except BrokenPipeError:
            return 0
        except Exception as error:
            if debug and not isinstance(error, _WrongUse):
                raise
            return _fail(_told(error), as_json=as_json)


def _follow() -> int:
    """One of torchrun's further processes: it trains when the first one says so."""
    from edgedistill.distillation.training.distributed import follow

    follow()
    return 0


def _told(error: Exception) -> EdgeDistillError:
    """An error with all its parts, as users are told it."""
    if isinstance(error, EdgeDistillError):
        return error
    if isinstance(error, _WrongUse):
        return UsageError(error.format_message(), where="command line", fix="edgedistill --help")
    return _InternalError(
        f"internal error: {type(error).__name__}: {error}",
        fix="--debug shows the traceback; please report it",
    )


def _fail(error: EdgeDistillError, *, as_json: bool) -> int:
    complain(f"error: {error}")
    if as_json:
        emit({"error": error.to_json()})
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

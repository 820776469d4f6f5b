"""Every error a user can cause, in one tree.

EdgeDistillError
├── UsageError          the command line or an argument is wrong                 exit 2
│   ├── RecipeError     a recipe or policy file: unknown key, wrong type, ...    exit 2
│   ├── DataError       the data: missing, NaN, labels out of range, ...         exit 2
│   ├── ModelError      a model or checkpoint: cannot be built or loaded         exit 2
│   ├── PluginError     an unknown plug-in, or one whose extra is not installed  exit 2
│   └── StorageError    the run directory: read-only, full, in use               exit 2
├── ArtifactError       a file that its runtime refuses, or one that changed     exit 3
└── DeviceError         a device that could not run a job                        exit 3
    └── CoreError       its core cannot execute the artifact: an answer          exit 3

Everything else that escapes is ours: an internal error, exit 4.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class EdgeDistillError(Exception):
    """One problem, told so that the reader can mend it.

    Attributes:
        message: what is wrong, in one sentence.
        where: the file, key, line or command it is about.
        expected: what would have been right.
        got: what was there instead.
        fix: what to do, as a command or an edit.
    """

    code = "error"
    exit_code = 4

    def __init__(self, message: str, *, where: str = "", expected: str = "", got: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.expected = expected
        self.got = got
        self.fix = fix

    def to_json(self) -> dict[str, str | int]:
        """The error object of the `--json` contract."""
        return {"code": self.code, "exit_code": self.exit_code, **self.told()}

    def told(self) -> dict[str, str]:
        """Its parts by name, of which it can be made again."""
        parts = {"where": self.where, "expected": self.expected, "got": self.got, "fix": self.fix}
        return {"message": self.message, **parts}

    def __str__(self) -> str:
        """All parts that are known, one a line."""
        parts = [
            ("", self.message),
            ("where: ", self.where),
            ("expected: ", self.expected),
            ("got: ", self.got),
            ("fix: ", self.fix),
        ]
        return "\n".join(label + text for label, text in parts if text)


class UsageError(EdgeDistillError):
    """The command line or an argument is wrong."""

    code = "usage_error"
    exit_code = 2


class RecipeError(UsageError):
    """A recipe or policy file does not say what it must."""

    code = "recipe_error"


class DataError(UsageError):
    """The data cannot be read, or is not what the task needs."""

    code = "data_error"


class ModelError(UsageError):
    """A model cannot be built, or a checkpoint does not fit it."""

    code = "model_error"


class PluginError(UsageError):
    """A plug-in is unknown, incomplete, or its extra is not installed."""

    code = "plugin_error"


class StorageError(UsageError):
    """The run directory cannot be written: read-only, full, or in use by another run."""

    code = "storage_error"


class ArtifactError(EdgeDistillError):
    """An artifact is damaged, foreign, or refused by its runtime."""

    code = "artifact_error"
    exit_code = 3


class DeviceError(EdgeDistillError):
    """A device could not carry out a job."""

    code = "device_error"
    exit_code = 3


class CoreError(DeviceError):
    """A device's core cannot execute an artifact: that is an answer about the two, and no accident."""

    code = "core_error"


_ALIKE = 0.5
"""Least likeness of a word that is proposed, as difflib tells it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence naming the closest known words and the alternatives."""
    options = sorted(known)
    alike = {option: difflib.SequenceMatcher(None, option, word).ratio() for option in options}
    most = max(alike.values(), default=0.0)
    best = [option for option in options if alike[option] == most and most >= _ALIKE][:3]
    did_you_mean = f"did you mean {' or '.join(map(repr, best))}? " if best else ""
    return f"{did_you_mean}known: {', '.join(options) or 'none'}"

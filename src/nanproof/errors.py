"""Every exception that nanproof raises on purpose.

The tree::

    NanproofError
    ├── UsageError                 the caller can mend it                       exit code 2
    │   ├── InputError             an input tensor is missing, extra or has a wrong shape or dtype
    │   ├── ModelFileError         the file is no ML Program, or is damaged
    │   ├── CaptureError           the PyTorch model cannot be exported
    │   ├── ConversionError        coremltools cannot lower the exported program
    │   └── NumericsError          these numerics do not exist, or do not fit
    └── CouldNotCheckError         nothing is known about the result            exit code 3
        ├── UnsupportedOpError     the program holds ops that nanproof cannot execute
        └── ExecutionError         an op failed while it was executed

*Could not check* is never a pass, so it has an exit code of its own.

Every message says what happened, where, and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "ConversionError",
    "CouldNotCheckError",
    "ExecutionError",
    "InputError",
    "ModelFileError",
    "NanproofError",
    "NumericsError",
    "UnsupportedOpError",
    "UsageError",
]


class NanproofError(Exception):
    """Base of all errors that nanproof raises on purpose."""

    exit_code = 1


class UsageError(NanproofError):
    """The call cannot work as it was made; the message says what to change."""

    exit_code = 2


class InputError(UsageError):
    """An input tensor is missing, unknown, or has a wrong shape, dtype or value."""


class ModelFileError(UsageError):
    """A file is not an ML Program, or its parts are missing or damaged."""


class CaptureError(UsageError):
    """``torch.export`` cannot capture the module."""


class ConversionError(UsageError):
    """coremltools cannot lower the exported program to MIL."""


class NumericsError(UsageError):
    """The named numerics are unknown, or not those of a unit that the question is about."""


class CouldNotCheckError(NanproofError):
    """nanproof cannot say anything about the result. This is never a pass."""

    exit_code = 3


class UnsupportedOpError(CouldNotCheckError):
    """The program holds MIL ops that nanproof cannot execute."""


class ExecutionError(CouldNotCheckError):
    """An op failed while it was executed."""

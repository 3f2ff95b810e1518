"""One exception for each status code of msadb. The numbers are those of the C++ library and the wire."""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """Something that msadb refused or could not do. It has changed nothing.

    `code` is for programs ("NotFound"), `message` for people: it says what was wrong and what to do.
    """

    code: ClassVar[str] = "Internal"
    number: ClassVar[int] = 13

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class NotFound(Error, LookupError):
    """The document, key or collection does not exist."""

    code, number = "NotFound", 1


class InvalidArgument(Error, ValueError):
    """The input is wrong; the same call will fail again."""

    code, number = "InvalidArgument", 2


class AlreadyExists(Error):
    """The name or key is taken."""

    code, number = "AlreadyExists", 3


class Corruption(Error):
    """Stored or supplied bytes are damaged; nothing was read from them."""

    code, number = "Corruption", 4


class IOFailure(Error, OSError):
    """The operating system refused a read or a write. Its code is "IOError"."""

    code, number = "IOError", 5


class ResourceExhausted(Error):
    """Memory, disk or a configured limit is used up."""

    code, number = "ResourceExhausted", 6


class Unavailable(Error):
    """It cannot serve now: in use by another process, closed, or not reachable."""

    code, number = "Unavailable", 7


class Conflict(Error):
    """Another transaction changed the same key or document first; begin again."""

    code, number = "Conflict", 8


class Cancelled(Error):
    """The caller cancelled."""

    code, number = "Cancelled", 9


class DeadlineExceeded(Error, TimeoutError):
    """The timeout passed."""

    code, number = "DeadlineExceeded", 10


class Unsupported(Error):
    """This build, model or format version cannot do it."""

    code, number = "Unsupported", 11


class FailedPrecondition(Error):
    """The database is not in the needed state: another model, read-only, a snapshot in the way."""

    code, number = "FailedPrecondition", 12


class Internal(Error):
    """A defect in msadb."""

    code, number = "Internal", 13


class PermissionDenied(Error, PermissionError):
    """The token does not allow it (remote use)."""

    code, number = "PermissionDenied", 14


_BY_NUMBER: dict[int, type[Error]] = {
    cls.number: cls
    for cls in (
        NotFound, InvalidArgument, AlreadyExists, Corruption, IOFailure, ResourceExhausted, Unavailable,
        Conflict, Cancelled, DeadlineExceeded, Unsupported, FailedPrecondition, Internal, PermissionDenied,
    )
}


def error_of(number: int, message: str) -> Error:
    """The exception for a status code. Called by the extension module."""
    return _BY_NUMBER.get(number, Internal)(message)

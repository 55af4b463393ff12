"""Errors over HTTP: `application/problem+json` (RFC 9457) with the class of the error and its reasons, and the same error rebuilt from it.

An error of ours crosses with its text, which is safe to show to anyone; of any other exception only the name of its class does.
"""

from __future__ import annotations

import http
import inspect
from typing import Any

import msgspec

from sandbox import errors
from sandbox.errors import (
    ApprovalNeeded,
    BudgetExceeded,
    CallerError,
    DepartmentFailed,
    EvidenceError,
    FederationError,
    InternalError,
    Malformed,
    Refused,
    SandboxError,
    TooFewDepartments,
    Unreachable,
)

MEDIA_TYPE = "application/problem+json"
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, SandboxError)
}

# The first that fits counts. 409: what stands in the way can change; 403: it will not.
_STATUS: tuple[tuple[type[SandboxError], int], ...] = (
    (ApprovalNeeded, 409),
    (BudgetExceeded, 409),
    (TooFewDepartments, 409),
    (Refused, 403),
    (CallerError, 422),
    (Malformed, 400),
    (EvidenceError, 403),
    (DepartmentFailed, 502),
    (Unreachable, 503),
    (FederationError, 409),
)


class Problem(msgspec.Struct, frozen=True):
    """What went wrong. `title` is the status in words, `detail` the error's text, `error` its class, `reasons` why a rule said no."""

    title: str
    status: int
    detail: str
    error: str
    reasons: tuple[str, ...] = ()
    type: str = "about:blank"


class Answered(Exception):
    """An error with a status of its own, which its class does not tell."""

    def __init__(self, status: int, error: SandboxError):
        super().__init__(str(error))
        self.status, self.error = status, error


def problem(error: Exception) -> Problem:
    """What others may know of an error."""
    status = None
    if isinstance(error, Answered):
        status, error = error.status, error.error
    if not isinstance(error, SandboxError):
        return Problem(_title(500), 500, "", type(error).__name__)
    if status is None:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    reasons = error.reasons if isinstance(error, Refused) else ()
    return Problem(_title(status), status, str(error), type(error).__name__, reasons)


def rebuilt(told: Problem) -> SandboxError:
    """The error, of its own class and with its own text where it is one of ours."""
    kind: Any = CLASSES.get(told.error)
    if kind is None:
        return InternalError(f"the coordinator failed with {told.error[:64]!r}")
    return kind(told.reasons) if issubclass(kind, Refused) else kind(told.detail)


def _title(status: int) -> str:
    return http.HTTPStatus(status).phrase

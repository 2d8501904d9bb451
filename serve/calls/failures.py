"""Errors as answers: the status and OpenAI's shape of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.responses import JSONResponse

from seq2edge.errors import (
    BackendError,
    BundleError,
    CapacityError,
    InputError,
    OptionError,
    Seq2EdgeError,
    ServiceError,
)

LOG = logging.getLogger("seq2edge.serve")


class RequestError(InputError):
    """A request that is refused with this status; `param` names the field that is wrong."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


# The first that an error is one of; what is not the client's fault is told in the log alone.
STATUSES: tuple[tuple[type[Seq2EdgeError], int], ...] = (
    (CapacityError, 400),
    (InputError, 400),
    (OptionError, 400),
    (ServiceError, 503),
    (BundleError, 503),
    (BackendError, 503),
)
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def failure(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, dict[str, str | None]]:
    """An error in OpenAI's shape."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of(error: BaseException) -> int:
    """The HTTP status that tells of it."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def shape_of(error: BaseException, folders: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """What a client is told of an error: nothing of those that are the server's own.

    Of `folders` the names are told, not where they are.
    """
    status, message = status_of(error), str(error)
    for folder, name in folders.items():
        message = message.replace(folder, name)
    if isinstance(error, RequestError):
        return failure(status, message, param=error.param, code=error.code)
    if status < 500 or isinstance(error, ServiceError):
        return failure(status, message)
    if isinstance(error, (BundleError, BackendError)):
        return failure(status, "model: it does not work here, the server's log says why")
    return failure(status, "server: an error of its own, its log says which")


def refused(error: BaseException, retry: int, folders: Mapping[str, str]) -> JSONResponse:
    """The answer; one of 503 says after how many seconds it may be better."""
    status = status_of(error)
    headers = {"Retry-After": str(retry)} if status == 503 else None
    return JSONResponse(shape_of(error, folders), status, headers=headers)


def log_failure(path: str, error: Exception) -> None:
    """What is the server's fault, with where it came from where it is none of ours."""
    if status_of(error) >= 500 and not isinstance(error, (ServiceError, RequestError)):
        ours = isinstance(error, Seq2EdgeError)
        LOG.error("%s: %s", path, error, exc_info=None if ours else error)

"""Exceptions for failures that the caller may know of; `errors.py` turns them into responses."""

from http import HTTPStatus


class ServiceError(Exception):
    """An expected failure that is reported to the caller.

    `cause`: a sentence for the caller. `status`: the HTTP status. `code`: the error code; by default the status.
    """

    def __init__(self, cause: str, *, status: int = HTTPStatus.BAD_REQUEST, code: int | None = None) -> None:
        if not HTTPStatus.BAD_REQUEST <= status < 600:  # noqa: PLR2004
            raise ValueError(f"The status of a ServiceError must be from 400 to 599, not {status}.")
        super().__init__(cause)
        self.cause = cause
        self.status = int(status)
        self.code = self.status if code is None else code


class NotReady(ServiceError):  # noqa: N818 - a state, not an error
    """A dependency of the service is unavailable; `cause` is a sentence for the caller, without secrets."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause, status=HTTPStatus.SERVICE_UNAVAILABLE)


class AlreadyLoggedError(RuntimeError):
    """Stops an operation whose failure has been logged; the server need not log it again."""

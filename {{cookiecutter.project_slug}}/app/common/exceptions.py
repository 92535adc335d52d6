"""What a service raises when it cannot do its work; `errors.py` turns it into an answer."""

from http import HTTPStatus


class ServiceError(Exception):
    """A failure that the caller may know of.

    `cause`: a sentence for the caller. `status`: the HTTP status. `code`: a number of your own; default: the status.
    """

    def __init__(self, cause: str, *, status: int = HTTPStatus.BAD_REQUEST, code: int | None = None) -> None:
        if not HTTPStatus.BAD_REQUEST <= status < 600:  # noqa: PLR2004
            raise ValueError(f"A failure has an HTTP status from 400 to 599, and {status} is none.")
        super().__init__(cause)
        self.cause = cause
        self.status = int(status)
        self.code = self.status if code is None else code


class NotReady(ServiceError):  # noqa: N818 - a state, not an error
    """What the service needs does not answer; `cause` says so in a sentence for the caller, without secrets."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause, status=HTTPStatus.SERVICE_UNAVAILABLE)


class AlreadyLoggedError(RuntimeError):
    """Ends what cannot go on; the log says why already, and no server need say it again."""

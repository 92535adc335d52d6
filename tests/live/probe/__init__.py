# mypy: ignore-errors
"""The application of the live tests: the service, and a route for each outcome of a request.

It is copied into the baked project and served as `probe:app`. `probe:app_with_inherited_id` also returns, in a header,
the ID that the context held before the service's own code ran. The imports are installed in the environment of the
service and not in that of the tests, so mypy does not check this package.
"""

from app.common.request_id import current_request_id
from app.main import create_app
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from . import answers, sockets, work


class InheritedIDMiddleware:
    """Sets a response header to the ID that the context held before the service's own code ran."""

    def __init__(self, inner: FastAPI) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the context, then call the service."""
        inherited = current_request_id().encode()

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-inherited", inherited)]
            await send(message)

        await self.inner(scope, receive, send_with_header)


app = create_app()
for module in (answers, sockets, work):
    app.include_router(module.api)
app.mount("/probe/mounted", sockets.mounted)
app.mount("/probe/nested", create_app())
app_with_inherited_id = InheritedIDMiddleware(app)

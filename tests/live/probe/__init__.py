# mypy: ignore-errors
"""An application for the live tests: the service, and a route for each outcome of a request.

It is copied into the baked project and served as `probe:app`; `probe:watched` also returns which ID a request found in
the context before the service's own code ran. What it imports is installed with the service and not with the tests,
hence no type checks here.
"""

from app.common.request_id import current_request_id
from app.main import create_app
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from . import answers, sockets, work


class Watched:
    """Return in a header which ID the context held before the service's own code ran."""

    def __init__(self, inner: FastAPI) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the context first, then pass on."""
        inherited = current_request_id().encode()

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-inherited", inherited)]
            await send(message)

        await self.inner(scope, receive, tell)


app = create_app()
for module in (answers, sockets, work):
    app.include_router(module.api)
app.mount("/probe/mounted", sockets.mounted)
app.mount("/probe/nested", create_app())
watched = Watched(app)

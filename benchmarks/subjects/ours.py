"""The generated service with one more route, matched first; like those of the other subjects, it logs nothing."""

from app.common.response import Response
from app.main import app

__all__ = ["app"]


@app.get("/api/bench")
async def bench() -> Response[str]:
    """Return the envelope."""
    return Response(result="demo")


app.router.routes.insert(0, app.router.routes.pop())

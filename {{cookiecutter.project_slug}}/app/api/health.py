"""Health checks: liveness and readiness. ACCESS_LOG_EXCLUDE keeps successful ones out of the access log."""

from http import HTTPStatus

from fastapi import APIRouter, Request

from app.common.exceptions import NotReady
from app.common.http.readiness import failed_checks
from app.common.response import ErrorResponse, Response

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Response[str]:
    """Return 200 as long as the process can respond."""
    return Response(result="alive")


@router.get(
    "/readyz",
    responses={
        HTTPStatus.SERVICE_UNAVAILABLE: {
            "model": ErrorResponse,
            "description": "A dependency of the service is not ready; `cause` names it and the reason.",
        }
    },
)
async def readyz(request: Request) -> Response[str]:
    """Return 200 if all dependencies of the service are ready, so that it can serve requests; 503 otherwise."""
    checks = request.app.state.readiness_checks
    if checks and (causes := await failed_checks(checks)):
        raise NotReady(" ".join(causes))
    return Response(result="ready")

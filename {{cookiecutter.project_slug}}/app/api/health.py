"""Is the process alive, and is it ready for work? Left out of the access log unless something is wrong."""

from http import HTTPStatus

from fastapi import APIRouter, Request

from app.common.exceptions import NotReady
from app.common.http.readiness import failed_checks
from app.common.response import ErrorResponse, Response

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Response[str]:
    """Tell that the process answers."""
    return Response(result="alive")


@router.get(
    "/readyz",
    responses={
        HTTPStatus.SERVICE_UNAVAILABLE: {
            "model": ErrorResponse,
            "description": "Something that the service needs is not ready; `cause` says what, and why.",
        }
    },
)
async def readyz(request: Request) -> Response[str]:
    """Tell that the service may be sent requests: everything that it needs is ready as well."""
    checks = request.app.state.readiness_checks
    if checks and (causes := await failed_checks(checks)):
        raise NotReady(" ".join(causes))
    return Response(result="ready")

"""Is the process alive, and is it ready for work? Left out of the access log unless something is wrong."""

from fastapi import APIRouter

from app.common.response import Response

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Response[str]:
    """Tell that the process answers."""
    return Response(result="alive")


@router.get("/readyz")
async def readyz() -> Response[str]:
    """Tell that the service may be sent requests."""
    return Response(result="ready")

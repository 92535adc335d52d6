"""The application factory: decides the order of middlewares, routes and integrations."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import demo, health
from app.common.errors import install_error_handlers
from app.common.http.proxy_headers import TrustedProxies
from app.common.http.refusals import RefusalMiddleware
from app.common.log_handler import configure_logging
from app.common.middlewares import ContextMiddleware
from app.common.openapi import describe
from app.common.request_id import RequestIdPlugin, id_policy
from app.environment import project_metadata
from app.integrations import install_integrations, load_integrations, make_lifespan, wrap_app
from app.settings import Settings, get_settings


class Application(FastAPI):
    """FastAPI with a middleware stack outside of Starlette's, which also sees the response to an unhandled error."""

    def __init__(self, settings: Settings, **options: Any) -> None:  # noqa: ANN401 - FastAPI's
        self.settings = settings
        self.stack: ASGIApp = super().__call__
        super().__init__(**options)
        self.state.debug = settings.debug
        self.state.readiness_checks = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request through the middleware stack."""
        scope["app"] = self
        await self.stack(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document; every operation has the request ID header and the error envelope."""
        if not self.openapi_schema:
            self.openapi_schema = describe(super().openapi(), self.settings.request_id_header)
        return self.openapi_schema


def build_stack(app: ASGIApp, settings: Settings, integrations: Mapping[str, ModuleType]) -> ASGIApp:
    """Wrap the application in its middlewares; the last one here is the outermost."""
    app = add_cors(RefusalMiddleware(app), settings)
    app = wrap_app(app, settings, integrations)
    ids = RequestIdPlugin(settings.request_id_header, trust=settings.request_id_trust)
    id_policy.copy_from(ids.policy)  # tasks and messages follow the same policy
    return ContextMiddleware(
        app,
        plugins=(ids,),
        proxies=TrustedProxies(settings.forwarded_allow_ips),
        max_body_bytes=settings.max_body_bytes,
        refuses=False,
    )


def add_cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Wrap the application in CORS for CORS_ORIGINS; return it unchanged if there are no origins."""
    origins, header = settings.cors_origins, settings.request_id_header
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["Authorization", "Content-Type", header],
        expose_headers=[header],
        allow_credentials="*" not in origins,
    )


def create_app(settings: Settings | None = None) -> Application:
    """Return a new application; by default with the settings from the environment."""
    settings = settings or get_settings()
    configure_logging(settings)
    project = project_metadata()
    integrations = load_integrations()
    app = Application(
        settings,
        title=project.get("name", "service"),
        version=project.get("version", "0"),
        description=project.get("description", ""),
        docs_url="/api/docs" if settings.debug else None,
        redoc_url=None,
        openapi_url="/api/openapi.json" if settings.debug else None,
        lifespan=make_lifespan(integrations, settings),
        # Skips FastAPI's telemetry lookup in each request. Delete this line if you use FastAPI's telemetry.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    install_error_handlers(app)
    app.include_router(health.router)
    app.include_router(demo.router, prefix="/api")
    # After the routers, so that no route of an integration shadows one of ours.
    install_integrations(app, settings, integrations)
    app.stack = build_stack(app.stack, settings, integrations)
    return app


app = create_app()

"""The application: the only place where the order of things is decided."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import demo, health
from app.common.body_limit import BodyLimitMiddleware
from app.common.errors import install_error_handlers
from app.common.forwarded import TrustedProxies
from app.common.log_handler import configure_logging
from app.common.middlewares import ContextMiddleware
from app.common.openapi import describe
from app.common.refusal import REFUSAL_KEY, refuse
from app.common.request_id import RequestIdPlugin
from app.common.request_time import RequestTimePlugin
from app.integrations import install_integrations, lifespan_of, load_integrations, wrapped
from app.settings import Settings, get_settings, project_metadata


class Application(FastAPI):
    """A FastAPI whose door is outside of everything, also of the answer to an unhandled error."""

    def __init__(self, settings: Settings, **options: Any) -> None:  # noqa: ANN401 - those of FastAPI
        self.settings = settings
        super().__init__(**options)
        self.state.debug = settings.debug
        self.state.readiness_checks = {}
        self.wrapped: ASGIApp | None = None
        self.refuser = self.with_cors(refuse)

    def build_middleware_stack(self) -> ASGIApp:
        """Return the way of a request: door, integrations' `wrap`, CORS, body limit, then FastAPI and its own."""
        settings = self.settings
        self.served = self.with_cors(BodyLimitMiddleware(super().build_middleware_stack(), settings.max_body_bytes))
        return ContextMiddleware(
            self.wrapped or self.served,
            plugins=(
                RequestIdPlugin(settings.request_id_header, trust=settings.request_id_trust),
                RequestTimePlugin(),
            ),
            proxies=TrustedProxies(settings.forwarded_allow_ips),
            refuser=self.wrapped or self.refuser,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve. The mark keeps FastAPI from asking for each request who takes its telemetry; if you do, delete it."""
        scope["fastapi.telemetry"] = None
        await super().__call__(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse: what integrations put something around, so that they see each request of either kind."""
        await (self.refuser if REFUSAL_KEY in scope else self.served)(scope, receive, send)

    def with_cors(self, app: ASGIApp) -> ASGIApp:
        """Return the application with CORS for the origins of the settings, if there are any."""
        origins, header = self.settings.cors_origins, self.settings.request_id_header
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

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, in which every operation has the ID and the envelope."""
        if not self.openapi_schema:
            self.openapi_schema = describe(super().openapi(), self.settings.request_id_header)
        return self.openapi_schema


def create_app(settings: Settings | None = None) -> Application:
    """Return a new application; `settings` default to those of the environment."""
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
        lifespan=lifespan_of(integrations, settings),
    )
    install_error_handlers(app)
    app.include_router(health.router)
    app.include_router(demo.router, prefix="/api")
    # Last, so that no route of an integration stands before one of ours.
    install_integrations(app, settings, integrations)
    app.wrapped = wrapped(app.answer, settings, integrations)
    return app


app = create_app()

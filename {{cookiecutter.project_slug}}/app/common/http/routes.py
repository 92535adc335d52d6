"""The route template of a request: it has low cardinality, so it can be a label."""

from starlette.types import Scope

from app.common.context.request_record import SCOPE_KEY


def route_of(scope: Scope) -> str:
    """Return the route template with its prefixes, such as /users/{id}; empty if no route has matched.

    Never the path itself, since labels must have low cardinality.
    """
    included, root = scope.get("fastapi", {}).get("effective_route_context"), scope.get("root_path", "")
    candidates = (getattr(included, "starlette_route", None), included, scope.get("route"))
    inner = next((template for route in candidates if (template := str(getattr(route, "path_format", "")))), "")
    own_root = scope.get("app_root_path", root)
    if inner and root == own_root:
        return inner
    # A mounted application sets only its part of the template, a plain Starlette route none: match the rest here.
    path = scope["path"].removeprefix(own_root) if "endpoint" in scope else ""
    routes = [route for route in getattr(scope.get(SCOPE_KEY), "routes", ()) if hasattr(route, "path_regex")]
    outer: str = next((route.path_format for route in routes if route.path_regex.match(path)), "")
    return outer.removesuffix("/{path}") + inner if inner else outer

"""Which route serves a request, for those who count or trace requests."""

from starlette.types import Scope

from app.common.context.request_record import SCOPE_KEY


def route_of(scope: Scope) -> str:
    """Return the template of the path with its prefixes, such as /users/{id}; empty where no route has matched.

    Never the path itself, as there is no end of them.
    """
    included, root = scope.get("fastapi", {}).get("effective_route_context"), scope.get("root_path", "")
    known = (getattr(included, "starlette_route", None), included, scope.get("route"))
    inner = next((template for one in known if (template := str(getattr(one, "path_format", "")))), "")
    own_root = scope.get("app_root_path", root)
    if inner and root == own_root:
        return inner
    # What is mounted knows its own part only, and a route of Starlette nothing: the rest is that of the first to fit.
    path = scope["path"].removeprefix(own_root) if "endpoint" in scope else ""
    routes = [one for one in getattr(scope.get(SCOPE_KEY), "routes", ()) if hasattr(one, "path_regex")]
    outer: str = next((one.path_format for one in routes if one.path_regex.match(path)), "")
    return outer.removesuffix("/{path}") + inner if inner else outer

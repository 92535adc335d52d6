"""Routers: read the request, call a service, return a Response."""

"""The state of a request, and the registry of who observes it."""

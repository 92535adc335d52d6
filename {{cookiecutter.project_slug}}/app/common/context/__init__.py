"""The state of the current request, and the registry of observers."""

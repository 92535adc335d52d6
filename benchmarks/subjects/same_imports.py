"""FastAPI and one route, in the service's environment, with all that the service imports of other people's packages.

SAME_IMPORTS names the modules, in the order in which the service comes to them.
"""

import os
from importlib import import_module

for name in os.environ["SAME_IMPORTS"].split(","):
    import_module(name)

from bare_fastapi import app  # noqa: E402 - after the others, as a service's own application is

__all__ = ["app"]

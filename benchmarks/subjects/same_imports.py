"""FastAPI with one route, in the service's environment, after importing every third-party module of the service.

SAME_IMPORTS lists the modules in the order in which the service imports them.
"""

import os
from importlib import import_module

for name in os.environ["SAME_IMPORTS"].split(","):
    import_module(name)

from bare_fastapi import app  # noqa: E402 - after the third-party modules, as in the service

__all__ = ["app"]

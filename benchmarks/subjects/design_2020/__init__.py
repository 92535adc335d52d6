"""The 2020 design (starlette-context, two plugins, a worker class), changed only where current packages need it."""

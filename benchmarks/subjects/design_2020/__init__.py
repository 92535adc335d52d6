"""The design of 2020, with what today's packages ask to be changed: starlette-context, two plugins, a worker."""

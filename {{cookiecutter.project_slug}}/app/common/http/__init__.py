"""Request handling between the ASGI server and the application."""

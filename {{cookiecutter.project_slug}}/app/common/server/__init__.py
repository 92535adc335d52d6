"""The HTTP/1.1 protocol of the worker; only `app.common.workers` imports from here."""

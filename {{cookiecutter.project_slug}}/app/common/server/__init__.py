"""HTTP/1.1 at the socket; only `app.common.workers` imports from here."""

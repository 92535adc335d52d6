"""The work itself; no FastAPI in here."""

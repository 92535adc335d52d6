"""Business logic; must not import FastAPI."""

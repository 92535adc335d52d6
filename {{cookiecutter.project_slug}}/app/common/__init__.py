"""Shared code of the service: request IDs, logging, responses, errors."""

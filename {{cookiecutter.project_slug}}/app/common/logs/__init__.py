"""Formatters, handlers and filters that turn log records into log lines."""

"""The running service: every promise of the template over a real socket."""

"""Traces of requests across the processes of the service. Off by default; see `docs/tracing.md`."""

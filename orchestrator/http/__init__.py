"""The HTTP endpoints: health for machines, sessions for callers. Errors are RFC 9457 problems with a stable `code`."""

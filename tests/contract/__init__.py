"""One suite per protocol, run over every implementation of it; and what goes over the wire, seen from outside."""

"""What a node tells of its work: logs, traces, metrics. `port` is what its rooms see of the latter two."""

"""Measures what a session costs: requests, write units, CPU, latency, memory, start-up and recovery. `python -m bench`.

One file a figure. A figure states counts and ratios of this machine; nothing here asserts a time.
"""

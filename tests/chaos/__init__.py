"""Real processes, killed, frozen and cut off under load: see `mayhem.py`; `make chaos` is the long run."""

"""Three applications that know each other by events only; see `README.md`."""

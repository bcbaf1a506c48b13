"""Side-by-side measurements, each a program of its own; see their --help."""

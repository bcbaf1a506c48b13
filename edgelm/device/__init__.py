"""The device: what it is, what it can run, what slows it down."""

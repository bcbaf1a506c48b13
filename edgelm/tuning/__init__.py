"""The search for the settings by which a bundle runs best on a machine."""

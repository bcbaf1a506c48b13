"""Models by name: a curated table of small ones (models.toml), what to expect of them, and the user's own bundles."""

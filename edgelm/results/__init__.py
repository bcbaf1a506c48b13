"""The atlas: what `edgelm bench` measured, kept in a SQLite file, compared, drawn, and made into a board's `[rates]`."""

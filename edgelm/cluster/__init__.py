"""Work in tasks that any process can do: in turn here, or on the workers of a Dask cluster, with the same outcome."""

"""The export path for models without a native family: through Optimum's traced graph."""

"""Mixed precision: a format for each matrix, within a budget."""

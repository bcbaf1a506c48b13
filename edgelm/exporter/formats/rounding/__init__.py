"""How a matrix is rounded to few bits."""

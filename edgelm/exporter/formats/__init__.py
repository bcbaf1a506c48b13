"""Storage formats: how a matrix is rounded, packed, multiplied and looked up."""

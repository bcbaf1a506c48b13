"""What a model takes in bytes and work, and whether a target has it."""

"""What an export is going to do: all is decided, and refused, before a byte is written."""

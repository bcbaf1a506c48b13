"""The folder between host and device: its manifest, how it is read and how it is written."""

"""The version of edgelm."""

__version__ = "0.1.0"

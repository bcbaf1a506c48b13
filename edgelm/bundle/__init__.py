"""The folder between host and device: its manifest, how it is read and how it is written."""

from edgelm.bundle.reader import Bundle

__all__ = ["Bundle"]

"""A board on your desk: edgelm on an emulated ARM core, for those who have none at hand."""

from edgelm.emulate.board import Board
from edgelm.emulate.sandbox import Sandbox, prepare

__all__ = ["Board", "Sandbox", "prepare"]

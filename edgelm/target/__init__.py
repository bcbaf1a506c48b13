"""A board, and how a model is stored for it."""

from edgelm.bundle.format_spec import FormatSpec
from edgelm.target.target import RecipeSpec, Target, load_all, load_target, target_names

__all__ = ["FormatSpec", "RecipeSpec", "Target", "load_all", "load_target", "target_names"]

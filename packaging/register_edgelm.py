"""``optimum-cli export edgelm``: what optimum-cli finds in its namespace of commands, where the wheel puts this file.

The folder there must have no ``__init__.py``: packages of several distributions share it (PEP 420).
"""

from __future__ import annotations

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class EdgelmExportCommand(BaseOptimumCLICommand):
    """Exports a model as a bundle of edgelm's; its options are those of ``edgelm export``."""

    COMMAND = CommandInfo(name="edgelm", help="Export a model for a board, quantised as suits its chip (edgelm).")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the options."""
        from edgelm.cli.optimum import add_arguments

        add_arguments(parser)

    def run(self) -> None:
        """Run ``edgelm export``, and exit as it does."""
        from edgelm.cli.optimum import export

        raise SystemExit(export(self.args))


REGISTER_COMMANDS = [(EdgelmExportCommand, ExportCommand)]

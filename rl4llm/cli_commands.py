"""`RecipeCommands`: the commands of a recipe; only the one that is called has flags."""

import sys
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI


class RecipeCommands(LightningCLI):
    """Offer the commands fit, validate and test; flags are made only for the one that is called."""

    _given: list[str] | None = None  # the arguments; those of the process when None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands and the arguments of each that are not flags."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate", "test")}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        """Make the parser of a command, without flags if the first argument names another command."""
        first = next(iter(sys.argv[1:] if self._given is None else self._given), None)
        if first == subcommand or first not in self.subcommands():
            return super()._prepare_subcommand_parser(klass, subcommand, **options)
        self._subcommand_method_arguments[subcommand] = []
        return self.init_parser(**options)

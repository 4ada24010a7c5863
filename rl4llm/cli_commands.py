"""`RecipeCommands`: the commands of a recipe, of which the one that is called has flags."""

import sys
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI


class RecipeCommands(LightningCLI):
    """The commands fit, validate and test. Making the flags of one takes a tenth of a second."""

    _given: list[str] | None = None  # the arguments; those of the process when None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands: fit, validate and test."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate", "test")}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        """Make the parser of a command; it has no flags if the first word calls another one."""
        first = next(iter(sys.argv[1:] if self._given is None else self._given), None)
        if first == subcommand or first not in self.subcommands():
            return super()._prepare_subcommand_parser(klass, subcommand, **options)
        self._subcommand_method_arguments[subcommand] = []
        return self.init_parser(**options)

"""`RecipeCLI`: a recipe function and a data module become a command with `fit`, `validate` and `test`."""

import logging
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import transformers
from jsonargparse import set_parsing_settings
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from rl4llm.advantages import Whiten
from rl4llm.checks import UsageError
from rl4llm.cli_errors import one_line
from rl4llm.cli_parser import RecipeParser
from rl4llm.data import PromptData
from rl4llm.rollouts import DynamicSampling
from rl4llm.runs import History, Summary

_PARSER_SAYS = "Does not validate against any of the Union subtypes"
_QUIET = (
    ".*does not have many workers.*",
    ".*exists and is not empty. Previous log files.*",
    ".*LeafSpec.*",
    ".*Consider setting `persistent_workers.*",
)


class RecipeCLI(LightningCLI):
    """Run a recipe from the command line.

    The recipe's signature gives the flags (`--model.gate=null`), the data module's gives the rest (`--data...`).
    Runs are reproducible (`--seed_everything`), land in `runs/<recipe>/version_<n>` with their resolved `config.yaml`,
    and are logged to TensorBoard and CSV, to Weights & Biases too with `--wandb=PROJECT`.

    Args:
        recipe: Function from parts to a module; its return annotation is needed.
        data: The data module.
        args: Command-line arguments; those of the process when None.
        data_defaults: Data settings that differ from the data module's defaults.
        trainer_defaults: Trainer settings that differ from the library's defaults, such as `max_steps`.
    """

    def __init__(
        self,
        recipe: Callable[..., LightningModule],
        data: type[LightningDataModule] = PromptData,
        *,
        args: list[str] | None = None,
        data_defaults: dict[str, Any] | None = None,
        **trainer_defaults: Any,
    ) -> None:
        self.recipe_name, self.data_defaults = recipe.__name__, data_defaults or {}
        self.history = History()
        self.summary = Summary(self.history, self.recipe_name)
        defaults = {
            "max_epochs": -1,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": -1,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            **trainer_defaults,
            "callbacks": [self.history, self.summary],
        }
        set_parsing_settings(subclasses_enabled=[Whiten, DynamicSampling])  # plain dataclasses take none by default
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # where the user's own classes lie; a script brings only its own folder
        transformers.utils.logging.disable_progress_bar()
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
        for message in _QUIET:
            warnings.filterwarnings("ignore", message)
        try:
            super().__init__(
                recipe,
                data,
                save_config_kwargs={"overwrite": True},
                trainer_defaults=defaults,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_class=RecipeParser,
                args=args,
            )
        except (UsageError, MisconfigurationException) as error:
            _leave(" ".join(str(error).split()))
        except ValueError as error:
            if _PARSER_SAYS not in str(error):
                raise
            _leave(one_line(str(error), []))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The one flag that is neither the recipe's, the data's nor the Trainer's."""
        parser.set_defaults({f"data.{name}": value for name, value in self.data_defaults.items()})
        parser.add_argument(
            "--wandb", type=str | None, default=None, help="Weights & Biases project to log to as well."
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, with the default loggers unless the configuration names others."""
        configured = self._get(self.config_init, "trainer.logger")
        if configured is None or configured is True:
            root = Path(self._get(self.config_init, "trainer.default_root_dir") or "runs")
            kwargs["logger"] = self._loggers(root)
        return super().instantiate_trainer(**kwargs)

    def _loggers(self, root: Path) -> list[Logger]:
        taken = [int(path.name[8:]) for path in (root / self.recipe_name).glob("version_*") if path.name[8:].isdigit()]
        version = max(taken, default=-1) + 1
        place = {"save_dir": str(root), "name": self.recipe_name, "version": version}
        loggers: list[Logger] = [TensorBoardLogger(**place), CSVLogger(**place)]  # type: ignore[arg-type]
        project = self._get(self.config_init, "wandb")
        if project and find_spec("wandb") is None:
            raise UsageError(f"--wandb={project} needs the wandb package; pip install 'rl4llm[wandb]'.")
        return loggers + ([WandbLogger(project=project, save_dir=str(root))] if project else [])

    def before_fit(self) -> None:
        """Say what will run."""
        composition = getattr(self.model, "composition", None)
        if composition is not None and self.trainer.is_global_zero:
            print(f"{self.recipe_name}:")
            print("\n".join(f"  {slot:12} {part!r}" for slot, part in composition.parts()))

    def after_fit(self) -> None:
        """Save and evaluate the final policy unless the last step did (validation saves too), then sum up."""
        evaluated = self.history.validation[-1][0] if self.history.validation else -1
        if evaluated != self.trainer.global_step:
            if self.trainer.checkpoint_callback is not None and self.trainer.log_dir:
                self.trainer.save_checkpoint(Path(self.trainer.log_dir) / "checkpoints" / "last.ckpt")
            if self.datamodule.val_dataloader():
                self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        self.summary.finish(self.trainer)


def _leave(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)

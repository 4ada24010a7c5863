"""`RecipeCLI`: a recipe function and a data module become a command with `fit`, `validate` and `test`."""

import contextlib
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from rl4llm.algorithms import compose
from rl4llm.checks import UsageError
from rl4llm.cli_commands import RecipeCommands
from rl4llm.cli_errors import PARSER_SAYS, import_fault, one_line
from rl4llm.cli_parser import RecipeParser
from rl4llm.cli_process import environment, prepare_process, rank
from rl4llm.cli_strategy import check_precision, resolve_strategy
from rl4llm.data import PromptData
from rl4llm.data.preparing import prepare
from rl4llm.look.keeper import RowKeeper
from rl4llm.progress import fitted, progress
from rl4llm.runs.checkpoints import Checkpoints
from rl4llm.runs.collapse import CollapseWatch
from rl4llm.runs.config import RunConfig
from rl4llm.runs.ending import Voice, end_children, explain, leave
from rl4llm.runs.first_batch import FirstBatch
from rl4llm.runs.folder import check_writable, new_folder
from rl4llm.runs.history import History
from rl4llm.runs.loggers import Logbook, ResumableCSVLogger
from rl4llm.runs.opening import opening
from rl4llm.runs.resume import Resumed, find_checkpoint
from rl4llm.runs.settings import settings_of
from rl4llm.runs.step_bar import StepBar, has_bar
from rl4llm.runs.stopping import RunStopped, Signals, Stopping
from rl4llm.runs.summary import Summary, measured_table

_FOLDER, _CHECKPOINT = "RL4LLM_RUN_FOLDER", "RL4LLM_CHECKPOINT"  # what the first process tells those it launches


class RecipeCLI(RecipeCommands):
    """Run a recipe from the command line.

    The recipe's signature gives the flags (`--model.gate=null`), the data module's gives the rest (`--data...`).
    Runs are reproducible (`--seed_everything`), land in `runs/<recipe>/version_<n>` with their resolved `config.yaml`,
    and are logged to TensorBoard and CSV, to Weights & Biases too with `--wandb=PROJECT`.
    `--ckpt_path=last` continues the newest run of the recipe in its own folder, with the configuration saved there;
    flags given now override it.

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
        self.recipe, self.recipe_name, self.data_defaults = recipe, recipe.__name__, data_defaults or {}
        self._given = args
        self.history, self.voice, self.signals = History(), Voice(), Signals()
        self.signals.at_once = self._end_at_once
        self.summary = Summary(self.history, self.recipe_name)
        self.resumed: Resumed | None = None
        self.run_folder: Path | None = None
        watching = [self.history, Logbook(), self.summary, CollapseWatch(), FirstBatch()]
        defaults = {
            "max_epochs": -1,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": -1,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            **trainer_defaults,
            "callbacks": [*watching, self.voice, Stopping(self.signals)],
        }
        progress.speak(self.recipe_name)
        prepare_process()
        progress.announce("reading the flags", quick=True)
        with self.signals:
            try:
                super().__init__(
                    recipe,
                    data,
                    save_config_callback=RunConfig,
                    trainer_defaults=defaults,
                    seed_everything_default=0,
                    auto_configure_optimizers=False,
                    parser_class=RecipeParser,
                    args=args,
                )
            except (Exception, RunStopped, SystemExit) as error:
                self._end(error)
            finally:
                progress.hush()

    # --- configuration ----------------------------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Checkpoints and loggers as flags, defaults of the data, and words for the recipe's standard slots."""
        if isinstance(parser, RecipeParser):
            parser.describe("model", self.recipe, compose)
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.set_defaults({"checkpoints.recipe": self.recipe_name})
        parser.add_lightning_class_args(RowKeeper, "rows")
        parser.set_defaults({f"data.{name}": value for name, value in self.data_defaults.items()})
        parser.add_argument(
            "--wandb", type=str | None, default=None, help="Weights & Biases project to log to as well."
        )
        parser.add_argument(
            "--dry_run", action="store_true", help="Print the memory that training will take; load and run nothing."
        )
        parser.add_argument(
            "--dry_run_memory", type=str | None, default=None, help="Of a device, such as 80GiB; null: this machine's."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the flags; of a run that goes on, after the configuration that it saved."""
        super().parse_arguments(parser, args)
        command = self.config.get("subcommand")
        given = self.config[command].get("ckpt_path") if command else None
        if given is None:
            return
        if rank():
            given = os.environ.get(_CHECKPOINT, given)
        self.resumed = find_checkpoint(str(given), self._root(self.config[command]), self.recipe_name)
        flags = list(sys.argv[1:] if args is None else args)
        if self.resumed.config is not None and command in flags:
            place = flags.index(command) + 1
            super().parse_arguments(parser, [*flags[:place], f"--config={self.resumed.config}", *flags[place:]])
        self.config[command]["ckpt_path"] = None  # what the run saves is the configuration of the whole run

    def _parse_ckpt_path(self) -> None:
        """Checkpoints of recipes hold no hyperparameters; opening the file this early would only hide its faults."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand != "fit":
            self.verbose, kwargs["verbose"] = kwargs.get("verbose", True), False  # the table is ours
        return kwargs if self.resumed is None else {**kwargs, "ckpt_path": str(self.resumed.checkpoint)}

    def before_instantiate_classes(self) -> None:
        """Read the data, so that their faults are found before a model is loaded; print the plan if that is all.

        A dry run ends here.
        """
        if (task := self.config[self.subcommand].get("data.task")) is not None:
            with progress.phase("reading the data"):
                prepare(task, str(self.subcommand))
        if self.config[self.subcommand].get("dry_run"):
            from rl4llm.planning.command import dry_run

            print(dry_run(self.parser, self.config, str(self.subcommand), self.recipe_name))
            raise SystemExit(0)

    @staticmethod
    def _root(config: Any) -> Path:
        return Path(config.get("trainer.default_root_dir") or "runs")

    # --- the Trainer and the run folder -----------------------------------------------------------------------------

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, with the default loggers unless the configuration names others."""
        config = self.config_init[self.subcommand]
        self.summary.seed = config.get("seed_everything")
        self.summary.settings = settings_of(self.config[self.subcommand].as_dict())
        kwargs["strategy"] = resolve_strategy(config.get("trainer.strategy"))
        check_precision(config.get("trainer.precision"))
        if self.resumed is not None:
            kwargs["num_sanity_val_steps"] = 0  # the evaluation before training is in the checkpoint's history
        root = self._root(config)
        if config.get("trainer.logger") in (None, True):
            kwargs["logger"] = self._loggers(root, config)
        elif config.get("trainer.default_root_dir") and not rank():
            check_writable(root)
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config.get("enable_checkpointing") is False or config.get("fast_dev_run"):
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoints)]
        if config.get("enable_progress_bar") is not False and not has_bar(config.get("callbacks")):
            callbacks = [*callbacks, StepBar()]
        try:
            return super()._instantiate_trainer(config, callbacks)
        except (TypeError, ValueError) as error:  # such as --trainer.devices=2x
            raise UsageError(f"--trainer: {error}") from error

    def _loggers(self, root: Path, config: Any) -> list[Logger]:
        project = config.get("wandb")
        if project and find_spec("wandb") is None:
            raise UsageError(f"--wandb={project} needs the wandb package; pip install 'rl4llm[wandb]'.")
        goes_on = self.resumed is not None and self.resumed.folder is not None and self.subcommand == "fit"
        self.save_config_kwargs["goes_on"] = goes_on
        rehearsal = bool(config.get("trainer.fast_dev_run"))
        self.run_folder = folder = self._folder(root, rehearsal=rehearsal, goes_on=goes_on)
        place = {"save_dir": str(folder.parent.parent), "name": folder.parent.name}
        version = int(folder.name.removeprefix("version_"))
        loggers: list[Logger] = [
            TensorBoardLogger(**place, version=version),  # type: ignore[arg-type]
            ResumableCSVLogger(**place, version=version, keep=goes_on),
        ]
        return loggers + ([WandbLogger(project=project, save_dir=str(root))] if project else [])

    def _folder(self, root: Path, *, rehearsal: bool, goes_on: bool) -> Path:
        """The run folder. The first process decides; those that it launches are told."""
        if goes_on:
            assert self.resumed is not None
            assert self.resumed.folder is not None
            if not rank():
                check_writable(self.resumed.folder)
            return self.resumed.folder
        told = os.environ.get(_FOLDER) if rank() else None
        return Path(told) if told else new_folder(root, self.recipe_name, first=not rank(), rehearsal=rehearsal)

    # --- the run ----------------------------------------------------------------------------------------------------

    def _run_subcommand(self, subcommand: str) -> None:
        told = {_FOLDER: self.run_folder, _CHECKPOINT: None if self.resumed is None else self.resumed.checkpoint}
        try:
            with environment({name: str(path) for name, path in told.items() if path is not None}):
                super()._run_subcommand(subcommand)
        except SystemExit as left:
            steps = self.trainer.global_step
            raise UsageError(f"the run was ended by sys.exit({left.code!r}) after {steps} rollout batches.") from None

    def before_fit(self) -> None:
        """Say what will run."""
        composition = getattr(self.model, "composition", None)
        if self.trainer.is_global_zero:
            parts = () if composition is None else composition.parts()
            print(fitted(opening(self.recipe_name, self.summary.seed, parts, self.resumed), sys.stdout))

    def after_fit(self) -> None:
        """Evaluate the final policy unless that was done, then sum up."""
        if not self.summary.started:  # a resumed run with nothing left to train: end it as training does
            self.trainer.fit_loop.epoch_progress.increment_completed()
            self.summary.on_train_end(self.trainer, self.model)
        evaluated = self.history.validation[-1][0] if self.history.validation else -1
        if evaluated != self.trainer.global_step and self.datamodule.val_dataloader():
            self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        self.summary.finish(self.trainer)

    def after_validate(self) -> None:
        """Print what was measured."""
        if self.verbose and self.trainer.is_global_zero:
            print(measured_table(self.trainer.callback_metrics, "test" if self.subcommand == "test" else "val"))

    after_test = after_validate

    def _end(self, error: BaseException) -> None:
        """Say in one line what ended the run, and leave with a status; an unforeseen error keeps its traceback."""
        progress.end()
        fault = import_fault(error)
        if isinstance(error, SystemExit) and fault is None:  # --help, and what the parser has said itself
            raise error
        trainer: Trainer | None = getattr(self, "trainer", None)
        end_children(trainer, at_once=not getattr(error, "together", False))
        known = explain(error, self.voice.hint(), alone=self.voice.place is None)
        if known is None and fault is not None:
            known = f"error: {fault}", 2
        if known is None and PARSER_SAYS in str(error):
            known = f"error: {one_line(str(error), [])}", 2
        message, status = known or (f"{type(error).__name__}: {error}", 1)
        speaks = self.voice.claim(message, status, after=getattr(error, "patience", 0.0))
        if not speaks:
            message, status = self.voice.spoken() or (message, status)
        self._note(trainer, message.removeprefix("error: "), stopped=status > 128)
        if speaks and known is None:
            raise error
        if speaks:
            print(fitted(message, sys.stderr), file=sys.stderr, flush=True)
        leave(status)

    def _end_at_once(self) -> None:
        """A second signal: nothing is saved any more, and no process is left behind."""
        end_children(getattr(self, "trainer", None), at_once=True)
        self.voice.say(f"ended at once by a second signal.{self.voice.hint()}", 128 + self.signals.received)

    def _note(self, trainer: Trainer | None, reason: str, *, stopped: bool) -> None:
        """Leave the ending in the run's `summary.json` where that is possible."""
        if trainer is None or not trainer.is_global_zero or self.run_folder is None or not self.run_folder.is_dir():
            return
        with contextlib.suppress(OSError):
            status = "stopped" if stopped else "failed"
            self.summary.write(self.run_folder, trainer.global_step, status=status, reason=reason)

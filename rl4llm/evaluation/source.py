"""What `evaluate` is given: a model by name or folder, a run folder, or a checkpoint of a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from rl4llm.algorithms.evaluation import Evaluation
from rl4llm.checks import UsageError
from rl4llm.cli_errors import one_line
from rl4llm.models import ModelSource, Policy, Pretrained, TinyQwen3, check_model
from rl4llm.models.names import resolve_model
from rl4llm.progress import progress
from rl4llm.rollouts import Sampling
from rl4llm.runs.checkpoint_files import ELSEWHERE, CheckpointFiles, check_place
from rl4llm.runs.resume import is_run_folder, newest_in, run_folder

_PREFIX = "policy.model."


@dataclass(frozen=True)
class Source:
    """A policy to evaluate, and the run that it comes from.

    Args:
        model: The model that is loaded.
        checkpoint: The file whose weights take the place of the model's; None: the model's own.
        config: The run's configuration; empty where there is none.
    """

    model: ModelSource | TinyQwen3
    checkpoint: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def choice(self, kind: Any, *keys: str) -> Any:
        """Return a part that the run's configuration names, such as its task; None where it names none.

        Args:
            kind: The type that the part must have.
            keys: Where it stands, for example `("data", "task")`.

        Raises:
            UsageError: If the configuration holds something else there.
        """
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if value is None else _built(kind, value, ".".join(keys))

    @property
    def name(self) -> str:
        """Return what the evaluated weights are called."""
        if self.checkpoint is not None:
            return str(self.checkpoint)
        return self.model.name if isinstance(self.model, Pretrained) else str(self.model)

    @property
    def embedded(self) -> bool:
        """Return whether the model is one of the package's own."""
        return self.checkpoint is None and self.name.startswith("rl4llm/")

    def sampling(self) -> Sampling | None:
        """Return how the run drew the responses of its evaluations; None without a run."""
        training = self.choice(Sampling, "model", "sampling")
        evaluation = self.choice(Evaluation, "model", "evaluation")
        return training if training is None or evaluation is None else evaluation.sampling(training)

    def check(self) -> None:
        """Raise, before weights are read, if the model cannot be loaded."""
        if not isinstance(self.model, TinyQwen3):
            check_model(self.model)

    def load(self) -> Policy:
        """Load the policy.

        Raises:
            UsageError: If the model cannot be loaded, or the checkpoint does not fit it.
        """
        with progress.phase("loading the policy"):
            policy = Policy(*self.model.build()) if isinstance(self.model, TinyQwen3) else Policy.load(self.model)
        if self.checkpoint is not None:
            with progress.phase("reading the checkpoint"):
                _take_weights(policy, self.checkpoint)
        return policy


def find_source(given: str | Pretrained) -> Source:
    """Find out what was given, without reading weights.

    Args:
        given: A checkpoint of a run, a run folder (its newest good checkpoint, or the policy that it saved), a model
            folder, a hub name or an embedded model.

    Raises:
        UsageError: If it is a checkpoint or a run folder that lacks something.
    """
    path = Path(given) if isinstance(given, str) else None
    if path is None or not (is_run_folder(path) or path.is_file() or path.suffix == ".ckpt"):
        if isinstance(given, str):
            resolve_model(given)  # a folder that does not exist is found before anything else is read
        saved = path is not None and path.is_dir() and is_run_folder(path.absolute().parent)
        return Source(given, None, _config(path.absolute().parent) if path is not None and saved else {})
    if is_run_folder(path) and not any(path.glob("checkpoints/*.ckpt")) and (path / "policy").is_dir():
        return Source(str(path / "policy"), None, _config(path))
    with _named_by_model():
        checkpoint = newest_in(path) if is_run_folder(path) else path
        check_place(checkpoint)
    folder = run_folder(checkpoint)
    config = {} if folder is None else _config(folder)
    if not config:
        raise UsageError(
            f"checkpoint '{checkpoint}' has no config.yaml in '{checkpoint.parent.parent}', which names its model; "
            "give a checkpoint in its run folder, or the folder of a saved model."
        )
    found = Source("", checkpoint, config)
    model = found.choice(str | Pretrained | TinyQwen3, "model", "policy")
    if model is None:
        raise UsageError(f"'{folder}/config.yaml' names no model.policy; give a run folder of a recipe.")
    return Source(model, checkpoint, config)


@contextmanager
def _named_by_model() -> Iterator[None]:
    """Let messages about checkpoints name the flag that they are given by here."""
    try:
        yield
    except UsageError as error:
        advice = "give --model another file, or a run folder for its newest good checkpoint"
        raise UsageError(str(error).replace(ELSEWHERE, advice)) from error


def _config(folder: Path) -> dict[str, Any]:
    """Return the configuration that a run saved; empty if there is none."""
    file = folder / "config.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"'{file}' cannot be read ({' '.join(str(error).split())[:160]}); repair it.") from None
    if not isinstance(content, dict):
        raise UsageError(f"'{file}' is no configuration of a run; give another run folder.")
    return content


def _built(kind: Any, value: Any, name: str) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return parser.instantiate(parser.parse_object({"value": value})).value
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"config.yaml of the run: {name}: {one_line(str(error), [])}") from error


def _take_weights(policy: Policy, checkpoint: Path) -> None:
    """Load the policy's weights of a checkpoint; weights that are never trained may be absent from it."""
    with _named_by_model():
        state = CheckpointFiles().load_checkpoint(checkpoint, mmap=True)["state_dict"]
    own = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    try:
        missing, unknown = policy.model.load_state_dict(own, strict=False)
        fault = next(iter([*sorted(trained.intersection(missing)), *unknown]), None)
    except RuntimeError as error:
        fault = " ".join(str(error).split(":", 1)[-1].split())[:200]
    if fault is not None:
        raise UsageError(
            f"checkpoint '{checkpoint}' does not fit the model of its config.yaml ({fault}); give one that belongs to "
            "it."
        )

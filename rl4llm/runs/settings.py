"""The settings of a run as TensorBoard shows them beside the final metrics, so that runs can be compared in a table."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

_SHOWN = ("model", "data", "seed_everything", "trainer.max_steps", "trainer.precision", "trainer.strategy")
Setting = bool | int | float | str


def settings_of(config: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings of algorithm and data by flag, and what of the Trainer changes the result.

    Args:
        config: The configuration of a command, as a mapping.

    Returns:
        One plain value per setting; the value of a slot is the name of its class.

    Example:
        >>> gate = {"class_path": "rl4llm.gates.AgreementGate", "init_args": {"fraction": 0.2}}
        >>> settings_of({"model": {"gate": gate, "entropy": None}, "ckpt_path": "last"})
        {'model.gate': 'AgreementGate', 'model.gate.fraction': 0.2, 'model.entropy': 'null'}
    """
    flat = dict(_flat("", config))
    return {name: value for name, value in flat.items() if name.startswith(_SHOWN)}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Setting]]:
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield name, str(value["class_path"]).rpartition(".")[2]
            value = value.get("init_args") or {}
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    elif value is None:
        yield name, "null"
    else:
        yield name, value if isinstance(value, bool | int | float | str) else _named(value)


def _named(value: Any) -> str:
    """Return a function by its import path, which is the same in every process, and any other value as a text."""
    name = getattr(value, "__qualname__", None)
    return str(value) if name is None else f"{value.__module__}.{name}"


def log_settings(
    loggers: list[Logger], settings: Mapping[str, Setting], metrics: Mapping[str, float], step: int
) -> None:
    """Write settings and final metrics for TensorBoard's table of hyperparameters.

    Args:
        loggers: The loggers of the run; only TensorBoard's is written to.
        settings: See [settings_of][rl4llm.runs.settings.settings_of].
        metrics: Final metrics by name; they are logged as `final/<name>`.
        step: The step of the last logged metrics.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            final = {f"final/{name}": value for name, value in metrics.items()}
            logger.log_hyperparams(dict(settings), final, step)
            logger.save()

"""`Plan`: the memory of a run on each device, by model and by phase."""

from dataclasses import dataclass, field

from rl4llm.planning.setting import Setting


@dataclass(frozen=True)
class ModelBytes:
    """What one model takes on a device for as long as the run lasts.

    Args:
        name: "policy", "reference", or that of a critic.
        count: Number of parameters, over all devices together.
        trained: Number of those that are trained.
        parameters: Bytes of parameters and buffers.
        gradients: Bytes of the gradients, while it learns.
        states: Bytes of its optimizer's states.
    """

    name: str
    count: int
    trained: int
    parameters: int
    gradients: int = 0
    states: int = 0


@dataclass(frozen=True)
class Phase:
    """What one phase of a rollout batch takes beside parameters, optimizer states and the batch itself.

    Args:
        name: Of the phase.
        activations: Bytes of everything that is neither named below.
        logits: Bytes of the tensors over the vocabulary.
        gradients: Bytes of gradients.
        cache: Bytes of the key-value cache of the responses that are drawn.
        weights: Bytes of weights that are gathered from other devices, or held by an engine of its own.
    """

    name: str
    activations: int
    logits: int = 0
    gradients: int = 0
    cache: int = 0
    weights: int = 0

    @property
    def total(self) -> int:
        """Sum of all of them."""
        return self.activations + self.logits + self.gradients + self.cache + self.weights


@dataclass(frozen=True)
class Plan:
    """The memory of a run on each device.

    Args:
        models: What the models take all the time.
        batch: Bytes of the rollout batch and its minibatches.
        phases: What each phase takes beside that.
        setting: Devices and sizes.
        notes: What was not counted.
    """

    models: tuple[ModelBytes, ...]
    batch: int
    phases: tuple[Phase, ...]
    setting: Setting
    notes: tuple[str, ...] = field(default=())

    @property
    def resident(self) -> int:
        """Bytes that are taken all the time: parameters, optimizer states and the rollout batch."""
        return sum(model.parameters + model.states for model in self.models) + self.batch

    @property
    def peak(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def peak_bytes(self) -> int:
        """The most bytes of tensors at a time."""
        return self.resident + self.peak.total

    @property
    def fits(self) -> bool | None:
        """Whether that is less than a device has; None where nobody knows."""
        memory = self.setting.memory
        return None if memory is None else self.peak_bytes + self.setting.libraries <= memory

"""What a law raises if it knows the cause: a reason with a remedy of its own."""


class FaultError(AssertionError):
    """A broken law whose cause is known; findings with the same remedy have the same cause.

    Args:
        said: What was seen.
        remedy: What mends the part.
    """

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(said)
        self.remedy = remedy


class RoundedError(FaultError):
    """A difference no larger than the rounding of float32, where the inputs are float64."""

    def __init__(self, said: str) -> None:
        super().__init__(
            said,
            "compute in the dtype of the inputs, or in a wider one; constants such as torch.tensor(1.0) are float32",
        )

"""The one error that a caller can mend."""


class UsageError(ValueError):
    """Something the caller can mend. The message is one line: where, what came, what to do."""

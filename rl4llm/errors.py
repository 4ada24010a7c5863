"""The errors that a caller can mend."""


class UsageError(ValueError):
    """Something the caller can mend. The message is one line: where, what came, what to do."""


class GraphError(UsageError):
    """A constant of an update, such as log-probs of the old policy, carries a gradient graph."""

"""`counted`: a number with its noun."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless there is one.

    Args:
        number: How many.
        noun: What is counted, in the singular; its plural ends in s.

    Example:
        >>> counted(1, "token"), counted(1200, "token")
        ('1 token', '1,200 tokens')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

"""Random numbers that follow from what they are for: every draw is seeded by a key, never by what was drawn before."""

import hashlib
import random
import sys

import torch

Key = str | int


def seed_of(*key: Key) -> int:
    """Return the seed that belongs to a key, the same on every machine and in every process.

        seed = first 63 bits of BLAKE2b(key)

    Different keys give unrelated seeds, so a run can hand out generators by purpose, step and prompt without any of
    them depending on how many numbers another one has drawn.

    Args:
        key: What the random numbers are for, for example `("rollout", seed, step, place)`.

    Returns:
        A whole number in [0, 2⁶³).

    Example:
        >>> seed_of("rollout", 0, 3) == seed_of("rollout", 0, 3), seed_of("rollout", 0, 3) == seed_of("rollout", 0, 4)
        (True, False)
    """
    plain = tuple(part if isinstance(part, str) else int(part) for part in key)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: Key) -> torch.Generator:
    """Return a CPU generator seeded by a key; see [seed_of][rl4llm.randomness.seed_of].

    Random numbers are drawn on the CPU and moved, so that they do not depend on the device. PyTorch's CPU generator
    reads 32 bits of a seed, so two keys share a stream with probability 2⁻³².

    Example:
        >>> torch.equal(torch.rand(2, generator=generator("order", 7)), torch.rand(2, generator=generator("order", 7)))
        True
    """
    return torch.Generator().manual_seed(seed_of(*key))


def seed_global(*key: Key) -> None:
    """Set the global random states of Python, NumPy (where it is loaded) and torch to those of a key.

    The loop calls this at the beginning of every step, so that a part that draws from a global state repeats its draws
    when a run is resumed, and draws the same on every rank.
    """
    seed = seed_of(*key)
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)

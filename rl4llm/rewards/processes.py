"""What processes that run foreign code need of the operating system (Linux)."""

import contextlib
import ctypes
import faulthandler
import os
import signal
import stat
import sys
import time
from collections.abc import Collection
from typing import Any

_PDEATHSIG, _CHILD_SUBREAPER = 1, 36  # of prctl
_replaced: list[Any] = []  # streams that must not be finalized in a fork: they would flush what the parent wrote


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends, so that none escapes."""
    _prctl(_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """End this process when its parent, which has a single thread, ends."""
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def reset_signals() -> None:
    """Give every signal its default action, but ignore SIGINT: Ctrl-C is the business of the run."""
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the supervisor ignores
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def redirect_streams(output: int) -> None:
    """Read nothing on standard input, and write standard output and standard error into a file descriptor.

    The descriptors 0, 1 and 2 are replaced themselves, so that libraries and child processes follow.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(output if output >= 0 else null, 1)
    os.dup2(1, 2)
    os.close(null)
    _replaced.extend([sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__])
    sys.stdin = sys.__stdin__ = _stream(0, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w")  # type: ignore[misc]


def _stream(descriptor: int, mode: str) -> Any:
    return open(descriptor, mode, buffering=1, closefd=False, encoding="utf-8", errors="replace")


def release_channels(keep: Collection[int]) -> None:
    """Let go of inherited pipes and sockets, whose other ends wait for their last holder to close them.

    They become the null device, so that objects that still own them close nothing else.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _open_descriptors():
        if descriptor > 2 and descriptor != null and descriptor not in keep:
            with contextlib.suppress(OSError):
                mode = os.fstat(descriptor).st_mode
                if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def _open_descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return list(range(3, 1024))


def yield_memory_first() -> None:
    """Ask the kernel to end this process, rather than the run, when memory runs out; leave no core file behind."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    with contextlib.suppress(OSError, ValueError):
        import resource  # needs Unix, as the functions of this file do, but not its import

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def children_of(process: int) -> list[int]:
    """Return the direct children of a process, ended ones that nobody has waited for included."""
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
        return found
    return [child for child in _all_processes() if _parent_of(child) == process]


def _all_processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _parent_of(process: int) -> int | None:
    try:
        with open(f"/proc/{process}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def has_children() -> bool:
    """Tell whether this process has a child, running or ended."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_children(keep: Collection[int] = (), patience_s: float = 2.0) -> None:
    """Kill every descendant of this process, which adopts orphans, except the children to keep and their own."""
    deadline = time.monotonic() + patience_s
    while has_children() and time.monotonic() < deadline:
        strays = [child for child in children_of(os.getpid()) if child not in keep]
        if not strays:
            return
        for child in strays:
            kill(child)
        for child in strays:
            wait_for(child, 0.1)


def kill(process: int) -> None:
    """Kill a process and, if it leads one, its process group."""
    with contextlib.suppress(OSError):
        if os.getpgid(process) == process:
            os.killpg(process, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.kill(process, signal.SIGKILL)


def wait_for(child: int, patience_s: float) -> int | None:
    """Wait for a child to end, but not forever; return its wait status, or None."""
    deadline, pause = time.monotonic() + patience_s, 0.0002
    while True:
        try:
            ended, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:  # somebody else has waited for it
            return 0
        if ended:
            return status
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def memory_of(process: int) -> int:
    """Return the resident memory of a process in bytes, 0 where that is unknown."""
    try:
        with open(f"/proc/{process}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def descendants_of(process: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    found = children_of(process)
    for child in found:
        found += children_of(child)
    return found

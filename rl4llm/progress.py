"""`progress`: what a command is doing, announced when it begins, with its seconds and its parts.

Only the standard library is imported here, because the first announcement comes before anything else is loaded.
"""

import atexit
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
OFTEN_S, SELDOM_S = 1.0, 10.0  # between two signs of life in a terminal, and elsewhere
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # where launchers write a process's number


class Progress:
    """Announces what a command does, and shows every second that it goes on.

    Every announcement is a line on standard error. In a terminal the seconds and parts of what was announced are drawn
    below it once per second and wiped when it ends; elsewhere a line says them every ten seconds. Nothing is written
    until a command calls `speak`, so that the library is silent in other programs.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.what, self.unit, self.begun, self.said = "", "", 0.0, 0.0
        self.done, self.total, self.unsaid, self.seldom = 0, 0, False, SELDOM_S
        self.beat: Callable[[], None] | None = None
        self.drawn = 0  # columns of the line that is drawn now
        self.drawn_on: Any = None
        self.lock = threading.RLock()
        self._alive: threading.Event | None = None

    def speak(self, name: str, environ: Mapping[str, str] = os.environ) -> None:
        """Write announcements from now on, in the first process of a run only.

        Args:
            name: The name of the command, with which every announcement begins.
            environ: Environment variables, which hold the rank of a process that a launcher started.
        """
        if all(environ.get(variable, "0") == "0" for variable in RANKS):
            self.name = name

    def hush(self) -> None:
        """End what was announced, and write nothing more."""
        self.end()
        self.name = None

    def announce(
        self, what: str, total: int = 0, unit: str = "parts", *, quick: bool = False, seldom: float = SELDOM_S
    ) -> None:
        """Say what begins now. It ends with the next announcement, or when `end` is called.

        Args:
            what: What begins, such as "loading the policy".
            total: How many parts it has; 0 if they cannot be counted.
            unit: What the parts are.
            quick: Say it only if it takes a second, which it seldom does.
            seldom: Seconds between two lines about it where there is no terminal.
        """
        if self.name is None:
            return
        with self.lock:
            self.end()
            self.what, self.unit, self.done, self.total = what, unit, 0, total
            self.begun = self.said = time.monotonic()
            self.unsaid, self.seldom = quick, seldom
            if not quick:
                print(f"{self.name}: {what}", file=sys.stderr, flush=True)
        self.every_second(self._go_on)

    @contextmanager
    def phase(self, what: str, total: int = 0, unit: str = "parts", *, quick: bool = False) -> Iterator[None]:
        """Announce what the body of the `with` statement does."""
        self.announce(what, total, unit, quick=quick)
        try:
            yield
        finally:
            self.end()

    def advance(self, count: int = 1) -> None:
        """Say that parts of what was announced are done."""
        self.done += count

    def over(self, parts: Iterable[T]) -> Iterator[T]:
        """Yield parts of what was announced, and count each when it is done."""
        for part in parts:
            yield part
            self.advance()

    def end(self) -> None:
        """End what was announced: wipe what is drawn."""
        with self.lock:
            self.beat = None
            self.wipe()

    def _go_on(self) -> None:
        now, terminal = time.monotonic(), sys.stderr.isatty()
        since, due = now - self.said + OFTEN_S / 2, OFTEN_S if terminal or self.unsaid else self.seldom
        if self.name is None or since < due:
            return
        if self.unsaid:
            self.unsaid = False
            print(f"{self.name}: {self.what}", file=sys.stderr, flush=True)
            return
        self.said, seconds = now, now - self.begun
        parts = f"{self.done:,}/{self.total:,} {self.unit}, " if self.total else ""
        if terminal:
            self.draw(f"  {parts}{seconds:.0f} s", sys.stderr, back=True)
        else:
            print(f"{self.name}: {self.what}: {parts}{seconds:.0f} s", file=sys.stderr, flush=True)

    # --- one line that is redrawn ------------------------------------------------------------------------------------

    def draw(self, line: str, stream: Any, *, back: bool = False) -> None:
        """Draw a line in the place of the one that is drawn now.

        Args:
            line: The line.
            stream: A terminal.
            back: Leave the cursor at its beginning, so that what another library writes covers a short line.
        """
        with self.lock:
            stream.write(f"\r{line:{self.drawn}}" + "\r" * back)
            stream.flush()
            self.drawn, self.drawn_on = len(line), stream

    def wipe(self) -> None:
        """Wipe the line that is drawn now, so that a line that stays can be written."""
        with self.lock:
            if self.drawn:
                self.drawn_on.write(f"\r{'':{self.drawn}}\r")
                self.drawn_on.flush()
            self.drawn = 0

    def keep(self) -> None:
        """Let the line that is drawn now stay."""
        with self.lock:
            if self.drawn:
                self.drawn_on.write("\n")
                self.drawn_on.flush()
            self.drawn = 0

    # --- the thread that redraws it ----------------------------------------------------------------------------------

    def every_second(self, beat: Callable[[], None]) -> None:
        """Call a function every second, until another takes its place or `end` is called."""
        with self.lock:
            self.beat = beat
            if self._alive is None:
                self._alive = threading.Event()
                threading.Thread(target=self._run, args=(self._alive,), daemon=True, name="progress").start()

    def stop(self) -> None:
        """End the thread: wipe what is drawn."""
        self.end()
        if self._alive is not None:
            self._alive.set()
            self._alive = None

    def forked(self) -> None:
        """Forget the thread in a forked process, which has none."""
        self.lock, self._alive, self.beat, self.name, self.drawn = threading.RLock(), None, None, None, 0

    def _run(self, ended: threading.Event) -> None:
        while not ended.wait(OFTEN_S):
            with self.lock:
                try:
                    if self.beat is not None:
                        self.beat()
                except (OSError, ValueError):  # the stream is closed
                    self.beat = None


def fitted(text: str, stream: Any) -> str:
    """Return a text as it is written to a stream: in a terminal, lines are broken between words.

    Args:
        text: The text, one or more lines; a line that is continued is indented by two more columns.
        stream: Where it goes.
    """
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns - 1
    return "\n".join(wrapped(line, width) for line in text.split("\n"))


def wrapped(line: str, width: int, indent: int = 2) -> str:
    """Break a line between words where it has more than `width` columns.

    Example:
        >>> print(wrapped("error: a long message", 12))
        error: a
          long
          message
    """
    if len(line) <= width:
        return line
    margin = " " * (len(line) - len(line.lstrip()) + indent)
    return textwrap.fill(line, width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)


progress = Progress()
atexit.register(progress.stop)
os.register_at_fork(
    before=lambda: progress.lock.acquire(),
    after_in_parent=lambda: progress.lock.release(),
    after_in_child=progress.forked,
)

"""Stopping at a signal: everything is saved at once, and said in one line."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_STOPPED = 75  # sysexits.h: EX_TEMPFAIL, try again.
EXIT_INTERRUPTED = 130  # As shells have it: 128 and SIGINT.
PATIENCE = 5  # Seconds in which the last evaluation may end before the run is saved.


class StoppedError(Exception):
    """A signal asked for the end, before something long was begun."""


def nothing() -> None:
    """What is to be saved where nothing was trained since the last checkpoint."""


class StopRequest:
    """Notes SIGTERM, SIGINT and SIGHUP, so that the run ends between two steps.

    What lasts long and changes no state (waiting for data, compiling, evaluating,
    sampling) the loop puts in `aside`, with what would save the run meanwhile. Python
    runs a handler only where its main thread comes by, which may be minutes away, so
    that a thread of its own hears of the signal and saves.

    A command hands in one that `owns_process`: it also ends the process once all is
    saved, at once where no step was taken yet, and at a second SIGINT. Otherwise the
    loop returns when it comes by, and a second SIGINT raises KeyboardInterrupt.

    With several processes it is JAX's own preemption notice that is asked, which all of
    them see at the same step; SIGINT is passed on as SIGTERM, which gives that notice.
    SIGHUP stays ignored where it is, as under nohup.
    """

    def __init__(self, owns_process: bool = False, processes: int = 1):
        """Does nothing before it is entered; `processes` as in `join`."""
        self.owns_process = owns_process
        self.signal: signal.Signals | None = None
        self.heard = False
        self.interrupts = 0
        self.stepped = False  # Whether there is anything to lose.
        self.together = processes > 1  # All of them stop at one step.
        self.asked = 0  # How often JAX was asked for its notice.
        self.agreed = False  # Whether it was given.
        # What saves, while the loop is at what lasts long; None between.
        self.saves: Callable[[], None] | None = nothing if owns_process else None
        self.leaves = True  # Whether the run ends once that is saved.
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.before_leaving: Callable[[], None] = nothing

    def __enter__(self) -> "StopRequest":
        self.previous = {}
        self.read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        self.wakeup = signal.set_wakeup_fd(self.write, warn_on_full_buffer=False)
        threading.Thread(target=self.listen, args=(self.read,), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number == signal.SIGTERM and self.together:
                continue  # JAX has taken it.
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self.previous[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self.wakeup)
        os.close(self.write)  # Which ends the thread.

    def join(self, processes: int) -> None:
        """Says how many processes there are, once that is known."""
        self.together = processes > 1
        if not self.together:  # In a cluster of one JAX has taken the signal.
            signal.signal(signal.SIGTERM, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler, in the main thread."""
        again = self.signal == number == signal.SIGINT
        self.signal = signal.Signals(number)
        if again and not self.owns_process:
            raise KeyboardInterrupt

    def listen(self, read: int) -> None:
        """Answers every signal, as soon as it comes."""
        with open(read, "rb", buffering=0) as pipe:
            while numbers := pipe.read(1):
                self.answer(signal.Signals(numbers[0]))

    def answer(self, number: signal.Signals) -> None:
        """In a thread of its own: leaves, passes it on, or has the run saved."""
        first, self.heard = not self.heard, True
        self.signal = number
        self.interrupts += number == signal.SIGINT
        if self.interrupts > 1 and self.owns_process:
            tell("Interrupted; the last checkpoint is whole.")
            os._exit(EXIT_INTERRUPTED)
        if self.together:
            os.kill(os.getpid(), signal.SIGTERM)
        elif first:
            threading.Thread(target=self.save, daemon=True).start()
        if first and self.owns_process and self.stepped:
            tell(f"{number.name}: saving. A second Ctrl-C leaves without.")

    def save(self) -> None:
        """Saves, if the loop is at what lasts long, and leaves if that is wanted."""
        if not self.leaves:
            self.over.wait(PATIENCE)
        with self.lock:
            saves, self.saves = self.saves, None
            if saves is None:
                return  # The loop comes by, and sees it.
            ends = self.owns_process and self.leaves
            try:
                saves()
                if ends:
                    self.before_leaving()
            except Exception as error:
                tell(f"error: could not save: {type(error).__name__}: {error}")
                if ends:
                    os._exit(1)
            if ends:
                tell(self.farewell())
                os._exit(EXIT_STOPPED)

    def farewell(self) -> str:
        """What to say at the end of a stopped run."""
        done = "and saved" if self.stepped else "before a step was taken"
        return f"Stopped {done}; run the same command to go on."

    def started(self) -> None:
        """Says that a step was taken: from now on there is something to lose."""
        if not self.stepped:
            with self.lock:
                self.stepped, self.saves = True, None

    @contextlib.contextmanager
    def aside(
        self, saves: Callable[[], None] = nothing, *, leaves: bool = True
    ) -> Iterator[None]:
        """Has `saves` called if a signal comes within.

        Args:
            saves: Called in another thread, once at most. Nothing within may change
                what it reads.
            leaves: Whether what is within may be given up for that.

        Raises:
            StoppedError: If a signal came before, and what is within may be given up.
        """
        if self.together:
            yield
            return
        if self.signal is not None and leaves:
            raise StoppedError
        if not leaves:
            self.over.clear()
        with self.lock:
            before, self.saves, self.leaves = self.saves, saves, leaves
        if self.signal is not None:
            threading.Thread(target=self.save, daemon=True).start()
        try:
            yield
        finally:
            if not leaves:
                self.over.set()
            with self.lock:
                self.saves, self.leaves = before, True

    def seen(self, step: int) -> bool:
        """Whether to stop after `step`; all processes are to ask equally often."""
        if not self.together or self.agreed:
            return self.agreed or self.signal is not None
        from jax.experimental import multihost_utils

        # Counted from 1 in each process: what JAX takes for the count of one that has
        # not asked yet is 0, so that a notice from before is found by the first.
        self.asked += 1
        self.agreed = multihost_utils.reached_preemption_sync_point(self.asked)
        if self.agreed:
            tell(f"All processes stop after step {step}, and save.")
        return self.agreed


def end_at_once() -> None:
    """Lets SIGTERM and SIGINT end the process without a word, whatever it is doing.

    Python by itself ends at SIGINT where its main thread comes by, with a traceback.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def tidily() -> Iterator[None]:
    """Within, the two are an exception, so that what is half written gets deleted."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # As shells have it.

    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def tell(line: str) -> None:
    """Writes a line to stderr, from any thread, and into the middle of a bar."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())

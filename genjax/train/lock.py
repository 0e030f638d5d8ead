"""One run at a time in a folder: whoever comes second is told who is there."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from genjax.config import ConfigError
from genjax.train.writers import say

NAME = "run.lock"
BEAT = 10  # Seconds between two signs of life, for other machines.
PATIENCE = 4 * BEAT  # Seconds without any, after which a run elsewhere has ended.


class Lock:
    """`<workdir>/run.lock`, held until it is released or the process ends.

    The kernel holds it, and lets it go however the process ends. Where machines share
    the folder but not the kernel's locks, as on some network storage, the file itself
    tells: its holder counts in it, and a count that stands still is of the dead. Only
    the reader's monotonic clock is asked, so that no clock that is set, here or there,
    decides anything.
    """

    def __init__(self, path: Path):
        """Takes it.

        Raises:
            ConfigError: If another run holds it, with its process, host and age.
            OSError: If the file cannot be written.
        """
        self.path, self.count = path, 0
        while True:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self.take()
                if os.path.samestat(os.fstat(self.file), os.stat(path)):
                    break
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(self.file)
                raise
            os.close(self.file)  # Deleted since, by the one who had it.
        self.ended = threading.Event()
        self.since = time.time()
        self.write()
        self.beats = threading.Thread(target=self.beat, daemon=True)
        self.beats.start()

    def take(self) -> None:
        """Raises ConfigError if it is another's."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(self.refusal(read(self.path))) from None
        except OSError:  # Storage without locks, as some mounted buckets are.
            locks = False
        else:
            locks = True
        found = read(self.path)
        if not found or (locks and found["machine"] == machine()):
            return  # None, or of a process that has ended here.
        deadline = time.monotonic() + PATIENCE
        say(
            f"{self.path} is of {holder(found)}. Waiting {PATIENCE} s for a sign of "
            "life of it ..."
        )
        while time.monotonic() < deadline:
            time.sleep(min(1, PATIENCE / 10))
            if not (now := read(self.path)):
                return  # It has ended.
            if now["count"] != found["count"]:
                raise ConfigError(self.refusal(now))

    def refusal(self, found: dict[str, Any]) -> str:
        """What to tell who comes second."""
        return (
            f"--workdir={self.path.parent} is in use by {holder(found)}. Wait for its "
            "end, stop it (SIGTERM has it save), or give another --workdir"
        )

    def write(self) -> None:
        """Says whose it is, and counts on."""
        self.count += 1
        found = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "machine": machine(),
            "since": self.since,
            "count": self.count,
        }
        text = json.dumps(found).encode()
        os.pwrite(self.file, text.ljust(256), 0)  # Of one length: never half a line.
        os.fsync(self.file)

    def beat(self) -> None:
        """Counts for those who look from another machine."""
        while not self.ended.wait(BEAT):
            with contextlib.suppress(OSError):  # A full disk: the next may be written.
                self.write()

    def release(self) -> None:
        """Lets the next run in."""
        if self.ended.is_set():
            return
        self.ended.set()
        self.beats.join()
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self.file)


def read(path: Path) -> dict[str, Any]:
    """Whose the lock is; {} if nobody's, or if that cannot be read."""
    try:
        found = json.loads(path.read_text())
        return {**dict.fromkeys(("process", "host", "machine", "since")), **found}
    except (OSError, ValueError, TypeError):
        return {}


def holder(found: dict[str, Any]) -> str:
    """Of whom it is, in words."""
    if not found:
        return "another run"
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"]))
        minutes = max(0, int(time.time() - found["since"])) // 60
    except (TypeError, ValueError, OverflowError, OSError):
        since, minutes = "an unknown time", 0
    age = f"{minutes // 60} h {minutes % 60} min"
    return (
        f"process {found['process']} on {found['host']} since {since}, for {age} by now"
    )


def machine() -> str:
    """Tells one running kernel from others, which have locks of their own."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()

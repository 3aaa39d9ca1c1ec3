"""Who works on a cell: a file with process and host, so that two engines on one folder never run a cell twice.

A holder on this machine is alive while its process is (a recycled process number is told apart by its start time); a
holder on another machine while it renews the file's time. The kernel's lock on the same file only makes looking and
taking one step; it is held for a moment.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from results.records import StoreError, guarded

NAME = "lock"
RENEWED_S = 60  # how often a holder renews
WAIT_S = 0.02
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
STALE_S = 15 * 60  # silence after which a holder on another machine is taken for dead


class LockedError(StoreError):
    """The cell is running elsewhere; the message names process and host."""


@dataclass(frozen=True)
class Holder:
    """A process that works on a cell. `born`: its start in clock ticks since boot, None where the system hides it.
    job, restarts: the SLURM job that it is in, and how often SLURM has started that again."""

    pid: int
    host: str
    born: int | None
    job: str | None = None
    restarts: int = 0

    @classmethod
    def myself(cls) -> "Holder":
        job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", "0")
        return cls(os.getpid(), socket.gethostname(), _born(os.getpid()), job, int(restarts))

    def alive(self, renewed: float) -> bool:
        """`renewed`: when the lock file was last touched, in seconds since the epoch."""
        if self.host != socket.gethostname():
            me = Holder.myself()
            if self.job is not None and self.job == me.job and self.restarts < me.restarts:
                return False  # its node has failed: SLURM has started the same job again here
            return time.time() - renewed < STALE_S
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it exists and belongs to somebody else
            return True
        return self.born is None or _born(self.pid) == self.born

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _born(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None outside Linux, or for a process that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()  # the name in parentheses may hold spaces
    return None if state == "Z" else int(rest[18])


def _read(descriptor: int) -> Holder | None:
    """The living holder named in an open lock file."""
    try:
        holder = Holder(**json.loads(os.pread(descriptor, 4096, 0)))
        return holder if holder.alive(os.fstat(descriptor).st_mtime) else None
    except (ValueError, TypeError):
        return None  # empty, or cut off by a crash between taking and writing


def holder(folder: Path) -> Holder | None:
    """Who works in `folder` now, or None. Reads only; a stale lock counts as none."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """Opens `path` (made if missing) under the kernel's exclusive lock, waiting for it; yields the descriptor.

    On a file system without such locks (some network ones) a folder beside it takes their place: to make one is one
    step everywhere.
    """
    taken = path.with_name(f"{path.name}.taken")
    with guarded(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                made = False
            except OSError as error:
                if error.errno not in NO_FLOCK:
                    raise
                made = _make_alone(taken)
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                    break
            _release(descriptor, taken if made else None)  # its holder removed it while we waited
    try:
        yield descriptor
    finally:
        _release(descriptor, taken if made else None)


def _release(descriptor: int, taken: Path | None) -> None:
    os.close(descriptor)
    if taken is not None:
        with suppress(OSError):
            taken.rmdir()


def _make_alone(folder: Path) -> bool:
    """Makes the folder, waiting while another process has it; one that was left behind by a crash is removed."""
    while True:
        try:
            folder.mkdir()
            return True
        except FileExistsError:
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > STALE_S:
                    folder.rmdir()
            time.sleep(WAIT_S)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps `folder` for this process. Raises LockedError naming the holder when somebody alive has it."""
    path, me = folder / NAME, Holder.myself()
    with exclusive(path) as descriptor:
        other = _read(descriptor)
        if other is not None:
            raise LockedError(f"{folder.name} is running already: {other}")
        with guarded(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)
            os.fsync(descriptor)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEWED_S):
            with suppress(OSError):
                os.utime(path)

    renewer = threading.Thread(target=renew, name="lock", daemon=True)
    renewer.start()
    try:
        yield
    finally:
        done.set()
        renewer.join()
        with suppress(StoreError), exclusive(path) as descriptor:
            if _read(descriptor) in (me, None):  # another, which took it over while this process was silent, keeps it
                path.unlink()

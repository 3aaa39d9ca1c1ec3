"""Where cells run: processes of this machine (several GPUs if asked), or jobs of a SLURM cluster through submitit.

A launcher starts a command and gives a job; a job hands over the JSON lines that its process printed, its exit status
once it has ended, and the end of its error output. The engine sees no more of it than that.
"""

import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, Protocol

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 15  # between asking a process to stop and killing it: a step on two cores may take seconds
TAIL_BYTES = 4000
CLUSTER_MINUTES = 24 * 60  # per submission; a cell that needs longer is requeued and continues from its checkpoint
CLUSTER_CPUS = 8
ASK_S = 5  # between two questions whether a cluster still knows a job


class EngineError(RuntimeError):
    """The engine cannot do what was asked on this machine. The message says what to do instead."""


class Job(Protocol):
    """A started cell."""

    def events(self) -> list[dict[str, Any]]:
        """What the cell reported since the last call."""

    def poll(self) -> int | None:
        """Exit status (negative: killed by that signal), None while it runs."""

    def errors(self) -> str:
        """The end of what it wrote to stderr."""

    def stop(self) -> None:
        """Asks it to end; returns at once."""

    def reap(self, until: float) -> None:
        """Waits for its end until `until` (time.monotonic), then kills it and what it started."""


class Launcher(Protocol):
    capacity: int  # cells at a time
    queues: bool  # whether a job may wait for others, so that its silence says nothing

    def start(self, command: Sequence[str], slot: int) -> Job: ...

    def batch(self) -> AbstractContextManager[None]:
        """Around calls of `start` that belong together; their jobs are asked nothing within."""


def stop_all(jobs: Iterable[Job]) -> None:
    """Ends all of them, together."""
    jobs = list(jobs)
    for job in jobs:
        job.stop()
    until = time.monotonic() + GRACE_S
    for job in jobs:
        try:
            job.reap(until)
        except KeyboardInterrupt:  # a second Ctrl-C: no more patience, but none is left behind
            until = 0.0
            job.reap(until)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parse(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """JSON objects among `lines`; a line that is none (cut off by a crash) is left out."""
    events = []
    for line in lines:
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                events.append(event)
    return events


def _tail(file: IO[bytes]) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - TAIL_BYTES))
    return file.read().decode(errors="replace").strip()


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **changes}


def choose(
    launch: str,
    store: Path,
    cells: int,
    tiny: bool,
    device: str,
    jobs: int | None,
    gpus: int | None,
    threads: int | None,
    cluster: str | None,
    processes: int,
) -> Launcher:
    """The launcher for so many cells, as `suites.execution.engine.run` is asked. tiny: all of the smoke budget.

    Raises EngineError for what makes no sense or is not there.
    """
    if launch == "submitit":
        if gpus is not None:
            raise EngineError("--gpus spreads cells over this machine; with --launch submitit each process gets a GPU")
        where = {"gpu": device != "cpu", "cluster": cluster, "processes": processes}
        return SubmititLauncher(store / ".launch", jobs or cells, **where)
    if launch != "local":
        raise EngineError(f"unknown launcher {launch!r}: choose from local, submitit")
    if gpus is not None and not device.startswith("cuda"):
        raise EngineError(f"--gpus {gpus} needs --device cuda, not {device}")
    if device == "cpu" and tiny:
        # Too small to gain from a second thread, and so the bits do not depend on how many run side by side.
        threads, jobs = threads or 1, min(max(1, cores() // processes), cells) if jobs is None else jobs
    if processes > 1 and device != "cpu" and gpus is None:
        gpus = processes
    return LocalLauncher(max(1, (gpus or 1) // processes) if jobs is None else jobs, gpus, threads, processes)


# This machine


def together(command: Sequence[str], processes: int) -> list[str]:
    """`command` (a Python interpreter and what it runs) in so many processes of one host, which torchrun ends together
    when one of them fails. They tell who they are to each other by its variables."""
    if processes == 1:
        return list(command)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    return [command[0], *torchrun, *command[1:], "--processes", str(processes)]


class LocalLauncher:
    """`jobs` cells at a time, spread over `gpus` GPUs where given (slot i on GPU i modulo gpus), each in `processes`
    processes with a GPU of its own.

    Raises EngineError when this machine has fewer GPUs, or when they cannot be dealt out evenly.
    """

    queues = False

    def __init__(self, jobs: int, gpus: int | None = None, threads: int | None = None, processes: int = 1) -> None:
        if jobs < 1:
            raise EngineError(f"--jobs {jobs}: at least one cell at a time is needed")
        self.capacity, self.processes, self.gpus = jobs, processes, None
        if gpus is not None:
            names = visible_gpus(gpus)
            if gpus % processes:
                told = f"--gpus {gpus} and --processes-per-cell {processes}"
                raise EngineError(f"{told}: every process needs a GPU, so the first must be a multiple of the second")
            self.gpus = [",".join(names[first : first + processes]) for first in range(0, gpus, processes)]
        self.threads = threads or max(1, cores() // (jobs * processes))

    def batch(self) -> AbstractContextManager[None]:
        return nullcontext()

    def start(self, command: Sequence[str], slot: int) -> "LocalJob":
        changes = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        if self.gpus:
            changes["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return LocalJob(together([*command, "--threads", str(self.threads)], self.processes), _environment(changes))


def visible_gpus(count: int) -> list[str]:
    """Names of the first `count` GPUs for CUDA_VISIBLE_DEVICES, inside those already chosen by it."""
    import torch

    found = torch.cuda.device_count()
    if not 1 <= count <= found:
        raise EngineError(f"--gpus {count}: PyTorch sees {found} GPU{'' if found == 1 else 's'} here")
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (chosen.split(",") if chosen else [str(index) for index in range(found)])[:count]


class LocalJob:
    """A process in a session of its own, so that Ctrl-C reaches it only through the engine."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the job)
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line)

    def events(self) -> list[dict[str, Any]]:
        return _parse(self._lines.get() for _ in range(self._lines.qsize()))

    def poll(self) -> int | None:
        status = self._process.poll()
        if status is not None:
            self._reader.join(timeout=1)
        return status

    def errors(self) -> str:
        return _tail(self._stderr)

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def reap(self, until: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        self._signal(signal.SIGKILL)  # whatever of its group is left, workers included
        self._process.wait()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


# A cluster


class SubmititLauncher:
    """A job of a SLURM array per cell. Partition, account and time limit are SLURM's own SBATCH_* variables.

    folder: where submitit keeps its logs, on the file system that all nodes share. cluster: "slurm", or "local" to try
    it without one. Raises EngineError when submitit or SLURM is missing.
    """

    queues = True

    def __init__(
        self, folder: Path, capacity: int, *, gpu: bool, cluster: str | None = None, processes: int = 1
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise EngineError("--launch submitit needs the package: pip install -e '.[cluster]'") from None
        if cluster is None and shutil.which("sbatch") is None:
            raise EngineError("--launch submitit: there is no SLURM here (no sbatch on the PATH); use --launch local")
        logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns every minute where SLURM keeps no accounts
        self.capacity, self.processes = capacity, processes
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._executor = submitit.AutoExecutor(folder, cluster=cluster or "slurm")
        self._executor.update_parameters(
            name="mambair-bench",
            timeout_min=CLUSTER_MINUTES,
            cpus_per_task=CLUSTER_CPUS,
            tasks_per_node=1,
            slurm_array_parallelism=capacity,
            **({"gpus_per_node": processes} if gpu else {}),
        )
        self._count = 0

    def start(self, command: Sequence[str], slot: int) -> "SubmititJob":
        self._count += 1
        base = self.folder / f"{os.getpid()}-{self._count}"
        events, errors = base.with_suffix(".events"), base.with_suffix(".errors")
        events.touch()
        errors.touch()
        job = self._executor.submit(ClusterCell(together(command, self.processes), events, errors))
        return SubmititJob(job, events, errors)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What is started within is one job array, handed in at the end."""
        import submitit

        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = _environment({})["PYTHONPATH"]  # the job unpickles ClusterCell from this checkout
        try:
            with self._executor.batch():
                yield
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise EngineError(f"the cluster refuses the jobs: {' '.join(str(error).split())}") from error
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


class ClusterCell:
    """What a cluster job runs: the cell's process, with its output in files that the engine reads."""

    def __init__(self, command: list[str], events: Path, errors: Path) -> None:
        self.command, self.events, self.errors = command, events, errors
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        with open(self.events, "ab") as events, open(self.errors, "ab") as errors:
            self._process = subprocess.Popen(
                self.command, cwd=ROOT, env=_environment({}), stdin=subprocess.DEVNULL, stdout=events, stderr=errors
            )
            try:
                return self._process.wait()
            finally:
                self._end()

    def _end(self) -> None:
        """Ends the cell in order, so that its lock is free when another node takes it up."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            self._process.kill()
            self._process.wait()

    def checkpoint(self) -> Any:
        """Called by submitit before a time limit or preemption ends the job: the same cell is queued again."""
        import submitit

        self._end()
        return submitit.helpers.DelayedSubmission(ClusterCell(self.command, self.events, self.errors))


class SubmititJob:
    """A submitted cell."""

    def __init__(self, job: Any, events: Path, errors: Path) -> None:
        self._job, self._events, self._errors, self._read = job, events, errors, 0
        self._failure, self._asked, self._missed = "", time.monotonic(), 0

    def events(self) -> list[dict[str, Any]]:
        with open(self._events, "rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")  # the last line may still be growing
        self._read += len(whole) + len(end)
        return _parse(whole.splitlines())

    def poll(self) -> int | None:
        if not self._job.done():
            if not self._gone():
                return None
            self._failure = f"SLURM does not know job {self._job.job_id} any more, and it left no result"
            return 1
        problem = self._job.exception()
        if problem is None:
            return self._job.result()
        self._failure = str(problem).strip()
        return 1

    def _gone(self) -> bool:
        """Whether SLURM has twice not known the job, `ASK_S` apart. Submitit cannot tell where no accounting runs."""
        if shutil.which("squeue") is None or time.monotonic() - self._asked < ASK_S:
            return False
        self._asked = time.monotonic()
        asked = subprocess.run(["squeue", "-h", "-j", self._job.job_id], capture_output=True, text=True)
        unknown = not asked.stdout.strip() if asked.returncode == 0 else "Invalid job id" in asked.stderr
        self._missed = self._missed + 1 if unknown else 0
        return self._missed > 1

    def errors(self) -> str:
        with open(self._errors, "rb") as file:
            return "\n".join(filter(None, (_tail(file), self._failure[-TAIL_BYTES:])))

    def stop(self) -> None:
        self._job.cancel()

    def reap(self, until: float) -> None:
        while not self._job.done() and not self._gone() and time.monotonic() < until:
            time.sleep(0.1)

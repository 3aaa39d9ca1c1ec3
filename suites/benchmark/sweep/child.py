"""The process of one network: reads what to do from its standard input as JSON, writes a line of JSON for each step.

    {"do": "measure" | "compile" | "rates" | "nothing", "points": [...], "device": "cuda" | "cpu",
     "proved": what an earlier process found at the small size, or null}

It says {"row": {...}} for each point, {"rates": {...}}, and {"done"} after each
order. When its standard input ends, which is when its parent has gone, it ends too, whatever it is doing.
"""

import json
import os
import queue
import sys
import threading
from typing import Any


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the errors

    def say(what: dict[str, Any]) -> None:
        channel.write(json.dumps(what) + "\n")
        channel.flush()

    import torch

    from suites.benchmark.sweep import rates
    from suites.benchmark.sweep.points import Point

    orders: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    subject = None
    while True:
        order = json.loads(orders.get())
        device = torch.device(order["device"])
        points = [Point(**point) for point in order["points"]]
        if order["do"] == "rates":
            say({"rates": rates.measure(device)})
        elif order["do"] == "compile":
            compile_kernels(points, device)
        elif order["do"] == "measure":
            for point in points:
                subject = subject or made(point, device)
                row = subject if isinstance(subject, dict) else subject.measure(point, order["proved"])
                say({"row": row})
        say({"done": True})


def made(point: Any, device: Any) -> Any:
    """The network, or the columns of a row that say why there is none."""
    from suites.benchmark.comparison import Entry
    from suites.benchmark.sweep.measure import Subject
    from suites.benchmark.timing import StopWatch

    try:
        return Subject(point, device, StopWatch(device))
    except Exception as error:  # whatever another project's network does when it is built
        entry = Entry(None)
        entry.fail(error)
        return {"status": entry.status, "reason": entry.reason}


def compile_kernels(points: list[Any], device: Any) -> None:
    """Calls a network once at each size, so that Triton's cache has its kernels."""
    from suites.benchmark.model import BenchmarkModel
    from suites.benchmark.sweep.points import task_of

    model = None
    for point in points:
        if model is None:
            arguments = {**point.overrides, "routing": "gumbel"}
            size = point.height, point.width
            model = BenchmarkModel(point.model, arguments, task_of(point), point.mode, size, point.batch, device)
        else:
            model.take(task_of(point), (point.height, point.width), point.batch)
        for given in (True, False):
            model.result(point.precision, point.backend, "eager", given)


def _listen(orders: queue.Queue) -> None:
    for line in sys.stdin:
        orders.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()

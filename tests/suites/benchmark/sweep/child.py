"""In the place of a network's process: says what a point's name asks for, in the same words, without PyTorch.

`slow` never ends, `crash` kills itself, `oom` did not fit; every other point takes a moment. Each point that is begun
is written to the file that SWEEP_LOG names.
"""

import json
import os
import signal
import sys
import time

for line in sys.stdin:
    order = json.loads(line)
    for point in order["points"]:
        with open(os.environ["SWEEP_LOG"], "a") as log:
            log.write(f"{point['subject']} {point['height']}\n")
        if point["subject"] == "slow":
            time.sleep(60)
        if point["subject"] == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(0.15)
        times = {"median_ms": 1.0, "p10_ms": 1.0, "p90_ms": 1.0, "peak_mib": None, "measure_s": 0.1}
        small = order["proved"] or f"proved at {point['height']}"
        row = {"status": "ok", "reason": None, "check": {"seconds": 0.05, "small": small}, **times}
        if point["subject"] == "oom":
            row = {"status": "oom", "reason": "no memory"}
        print(json.dumps({"row": row}), flush=True)
    if order["do"] == "rates":
        print(json.dumps({"rates": {"fp32": 1.0}}), flush=True)
    print(json.dumps({"done": True}), flush=True)

"""Follow a job to its end over HTTP: python3 docs/watch.py 127.0.0.1:8888"""

import json, sys, time, urllib.request

URL = "http://{}/data/plugin/scalars/scalars?run=.&tag=progress"


def points(host):
    """Points [wall time, step, fraction] so far; none while nobody answers."""
    try:
        with urllib.request.urlopen(URL.format(host), data=b"", timeout=5) as answer:
            return json.load(answer)
    except OSError:  # refused, too late, or 404 before the first point
        return []


step, fraction, answered, patience = 0, 0.0, time.time(), 60
while (step, fraction) != (30, 1.0) and time.time() - answered < patience:
    if found := points(sys.argv[1]):
        answered, patience, (_, step, fraction) = time.time(), 8, found[-1]
        print(f"step {step}: {fraction:.0%}", flush=True)
    time.sleep(2)
sys.exit(0 if (step, fraction) == (30, 1.0) else f"no answer for {patience} s: see status.json")

"""What the chapters of the demo share: requests, faults, the upstream's count, metrics, and how a line is shown."""

import http.client
import json
import os
import pathlib
import re
import sys
import time

EDGE = int(os.environ.get("RESILIENCE_PORT") or 10000)
ADMIN = int(os.environ.get("RESILIENCE_ADMIN_PORT") or 9901)

POLICY = "checkout"
DOCUMENT = json.loads((pathlib.Path(__file__).parent / "policies.json").read_text())
CHECKOUT = next(policy for policy in DOCUMENT["policies"] if policy["name"] == POLICY)
FALLBACK = CHECKOUT["fallback"][0]["static"]

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
wrong = []


def paint(text, code):
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def chapter(text):
    print(f"\n{paint(text, 1)}", flush=True)


def line(text):
    print(f"  {text}", flush=True)


def check(holds, text):
    """One line for what should be so, and whether it is."""
    line(f"{paint('ok   ', 32) if holds else paint('WRONG', 31)}  {text}")
    if not holds:
        wrong.append(text)
    return holds


def read(connection):
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()


def call(port, method, path, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers or {})
        return read(connection)
    finally:
        connection.close()


def admin(method, path):
    status, _, body = call(ADMIN, method, path)
    if status != 200:
        sys.exit(f"demo: admin answers {status} to {path}: {body.strip()}")
    return body


def runtime(key, value):
    admin("POST", f"/runtime_modify?{key}={value}")


def repair_all():
    """Takes back every fault that is switched on, whoever did it: those of a run before, too."""
    known = json.loads(admin("GET", "/runtime"))
    # The last layer is the operator's.
    for key in [key for key, entry in known["entries"].items() if key.startswith("demo.") and entry["layer_values"][-1]]:
        runtime(key, "")


def upstream_calls(service=POLICY):
    """How many calls for this service the demo upstream has seen, by its own count."""
    name = f"http.demo_upstream.rbac.policy.{service}.allowed"
    found = re.search(rf"^{re.escape(name)}: (\d+)$", admin("GET", f"/stats?filter={re.escape(name)}"), re.MULTILINE)
    return int(found[1]) if found else 0


def metric(name, **labels):
    """The sum of a metric's series that have these labels."""
    total = 0
    for series in re.finditer(rf"^{name}{{(.*)}} (\S+)$", admin("GET", "/stats/prometheus"), re.MULTILINE):
        if all(f'{label}="{value}"' in series[1] for label, value in labels.items()):
            total += int(float(series[2]))
    return total


def state(policy=POLICY):
    return {0: "closed", 1: "half-open", 2: "open"}[metric("resilience_circuit_breaker_state", policy=policy)]


def eventually(holds, seconds):
    """Waits until something holds: gauges are set on a tick, and histograms are merged every few seconds."""
    deadline = time.monotonic() + seconds
    while not (now := holds()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def becomes(wanted):
    return eventually(lambda: state() == wanted, 3.0)


def is_fallback(status, headers, body, reason="circuit_open"):
    """Whether it is what checkout's policy says instead of an answer of the upstream, and tells for what reason."""
    try:
        same_body = json.loads(body) == FALLBACK["json"]
    except ValueError:
        same_body = False
    return status == FALLBACK["status"] and headers.get("x-resilience") == marker(reason) and same_body


def marker(reason):
    return f"{POLICY};reason={reason};source=static"


def settle():
    """Something before may have left the breaker open: wait until it is closed, helping it with healthy calls."""
    deadline = time.monotonic() + 20
    told = False
    while state() != "closed":
        if not told:
            line(f"the breaker is {state()} from before: waiting until it has closed")
            told = True
        if time.monotonic() > deadline:
            sys.exit("demo: the breaker does not close although the upstream is healthy")
        call(EDGE, "POST", "/checkout")
        time.sleep(0.5)


class Growth:
    """What a story must leave in the metrics, at least: other people may be using the shop. The policy is the same for all that
    name none among their labels."""

    def __init__(self, expected, policy=POLICY):
        self.expected = expected
        self.policy = policy
        self.before = self.now()

    def now(self):
        return [metric(name, **{"policy": self.policy, **labels}) for name, labels, _ in self.expected]

    def show(self):
        enough = lambda: all(now - then >= least for (_, _, least), then, now in zip(self.expected, self.before, self.now()))
        eventually(enough, 10.0)
        for (name, labels, least), then, now in zip(self.expected, self.before, self.now()):
            shown = ",".join(f'{label}="{value}"' for label, value in {"policy": self.policy, **labels}.items())
            check(now - then >= least, f"{name}{{{shown}}} grew by {now - then}")

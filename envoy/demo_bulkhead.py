"""The demo's chapters on bulkheads: a service that hangs fills its own compartment, and nothing else."""

import http.client
import select
import socket
import statistics
import time

from demo_stage import (
    CHECKOUT, EDGE, FALLBACK, POLICY, Growth, call, chapter, check, eventually, is_fallback, line, marker, metric, read,
    runtime, settle, state, upstream_calls
)

BULKHEAD = CHECKOUT["bulkhead"]
LIMIT = BULKHEAD["max_concurrent_calls"]
SHARES = {each["name"]: each["max_share"] for each in BULKHEAD["priority"]["classes"]}
NORMAL = LIMIT * SHARES["normal"] // 100
TOO_MANY = 5

# Whom the edge holds to be the back office: envoy.yaml, at x-priority. Only Linux has the whole of 127.0.0.0/8.
BACK_OFFICE = "127.0.0.2"
# Checkout's calls time out after 3 s: all that is to be seen while they hang has to be seen before.
IN_TIME = 2.5
ATTEMPTS = 3


def has_back_office():
    with socket.socket() as probe:
        try:
            probe.bind((BACK_OFFICE, 0))
        except OSError:
            return False
    return True


class Crowd:
    """Customers who all press the button at the same time, and then wait."""

    def __init__(self):
        self.waiting = []

    def arrive(self, count, source=None, headers=None):
        for _ in range(count):
            customer = http.client.HTTPConnection("127.0.0.1", EDGE, timeout=30, source_address=source and (source, 0))
            self.waiting.append(customer)
            customer.request("POST", "/checkout", headers=headers or {})

    def answers(self, count, deadline):
        """Those who get an answer, until there are so many of them or it is too late."""
        found = []
        while len(found) < count and (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([customer.sock for customer in self.waiting], [], [], left)
            for customer in [each for each in self.waiting if each.sock in ready]:
                self.waiting.remove(customer)
                found.append(read(customer))
                customer.close()
        return found

    def leave(self):
        for customer in self.waiting:
            customer.close()
        self.waiting.clear()


def browse():
    """Twenty looks at the catalogue: whether all were answered by the upstream, and how long one takes in the middle."""
    connection = http.client.HTTPConnection("127.0.0.1", EDGE, timeout=30)
    good, took = True, []
    for _ in range(20):
        began = time.perf_counter()
        connection.request("GET", "/catalogue")
        status, headers, _ = read(connection)
        took.append((time.perf_counter() - began) * 1000)
        good = good and status == 200 and "x-resilience" not in headers
    connection.close()
    return good, statistics.median(took)


def in_flight():
    return metric("resilience_bulkhead_in_flight", policy=POLICY)


def watch(crowd, usual, insiders):
    """What is to be seen while the service hangs: whether it holds, and what it is."""
    before = upstream_calls()
    deadline = time.monotonic() + IN_TIME
    left = lambda: deadline - time.monotonic()
    reached = lambda: upstream_calls() - before
    seen = []

    crowd.arrive(NORMAL + TOO_MANY, headers={"x-priority": "critical"})
    refused = crowd.answers(TOO_MANY, deadline)
    yield (len(refused) == TOO_MANY and all(is_fallback(*answer, "bulkhead_full") for answer in refused),
           f"{len(refused)} have waited {BULKHEAD['max_wait_duration']} and get the fallback:"
           f" {FALLBACK['status']}, {marker('bulkhead_full')}")
    yield (eventually(lambda: reached() == NORMAL, left()),
           f"{reached()} of {NORMAL + TOO_MANY} have reached the upstream: {SHARES['normal']}% of {LIMIT},"
           " whatever class they claim to be")

    full = NORMAL
    if insiders:
        full = LIMIT
        crowd.arrive(LIMIT - NORMAL + 2, source=BACK_OFFICE)
        refused = crowd.answers(2, deadline)
        yield (len(refused) == 2 and all(is_fallback(*answer, "bulkhead_full") for answer in refused)
               and eventually(lambda: reached() == LIMIT, left()),
               f"the back office calls {LIMIT - NORMAL + 2} times: {LIMIT - NORMAL} get the last permits,"
               f" the others find all {LIMIT} taken")

    def at_its_limit():
        seen.append(in_flight())
        return seen[-1] == full

    yield eventually(at_its_limit, left()), f"{max(seen, default=0)} are in flight by the gauge"
    good, now = browse()
    yield good, f"the catalogue answers as ever: 20 of 20, in {now:.1f} ms (before: {usual:.1f} ms)"
    seen.append(in_flight())
    yield reached() == full and max(seen) <= full, f"the upstream has seen {reached()} in all, and the gauge never more than {full}"
    yield state() == "closed", "the breaker has learned nothing: a refusal is no failure"


def saturate(usual, insiders):
    """Plays until nothing timed out meanwhile: on a machine that stood still the breaker's story would go on."""
    for attempt in range(ATTEMPTS):
        settle()
        eventually(lambda: in_flight() == 0, 10.0)  # those of the attempt before
        crowd = Crowd()
        began = time.monotonic()
        runtime("demo.checkout.delay_percent", "100")
        try:
            findings = list(watch(crowd, usual, insiders))
            took = time.monotonic() - began
        finally:
            crowd.leave()
        if took < IN_TIME or attempt == ATTEMPTS - 1:
            return findings
        line(f"this took {took:.1f} s, longer than calls are allowed to hang: once more")
        runtime("demo.checkout.delay_percent", "")


def growth_of(insiders):
    refusals = {"normal": TOO_MANY, "critical": 2 if insiders else 0}
    full = {"reason": "bulkhead_full"}
    expected = [("resilience_rejections_total", {**full, "class": name}, least) for name, least in refusals.items()]
    expected.append(("resilience_fallbacks_total", {**full, "source": "static"}, sum(refusals.values())))
    expected.append(("resilience_bulkhead_wait_milliseconds_count", {}, sum(refusals.values())))
    return Growth(expected)


def story():
    insiders = has_back_office()
    chapter(f"7. The payment service hangs: demo.checkout.delay_percent=100 (its bulkhead has {LIMIT} permits)")
    growth = growth_of(insiders)
    _, usual = browse()
    line(f"{NORMAL + TOO_MANY} customers press the button at once, and all of them say x-priority: critical")
    if not insiders:
        line(f"(there is no {BACK_OFFICE} on this machine, so nobody calls from the back office)")
    for holds, text in saturate(usual, insiders):
        check(holds, text)

    chapter("8. The customers give up, and the payment service is repaired")
    check(eventually(lambda: in_flight() == 0, 10.0),
          "nothing is in flight any more: each permit came back when its customer left")
    runtime("demo.checkout.delay_percent", "")
    status, headers, body = call(EDGE, "POST", "/checkout")
    check(status == 200 and "x-resilience" not in headers, f"POST /checkout  {status}  {body.strip()}")

    chapter("9. What the metrics say about it")
    limit = metric("resilience_bulkhead_limit", policy=POLICY)
    check(limit == LIMIT, f'resilience_bulkhead_limit{{policy="{POLICY}"}} is {limit}')
    growth.show()

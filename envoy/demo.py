#!/usr/bin/env python3
"""Shows on the running stack what a circuit breaker does: `make run` in one terminal, `make demo` in another.

Everything is driven and seen from outside: requests to the edge, faults by Envoy's runtime, and the demo upstream's own
count of the calls that reached it. Ends with an error if anything it shows is not what should happen.
"""

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
POLICIES = json.loads((pathlib.Path(__file__).parent / "policies.json").read_text())["policies"]
CHECKOUT = next(policy for policy in POLICIES if policy["name"] == POLICY)
BREAKER = CHECKOUT["circuit_breaker"]
FALLBACK = CHECKOUT["fallback"][0]["static"]
FAILURES = BREAKER["failures_in_window"]["failures"]
WAIT = float(re.fullmatch(r"(\d+)s", BREAKER["wait_duration_in_open_state"])[1])
MARKER = f"{POLICY};reason=circuit_open;source=static"

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


def call(port, method, path, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


def admin(method, path):
    status, _, body = call(ADMIN, method, path)
    if status != 200:
        sys.exit(f"demo: admin answers {status} to {path}: {body.strip()}")
    return body


def runtime(key, value):
    admin("POST", f"/runtime_modify?{key}={value}")


def upstream_calls():
    """How many calls for this service the demo upstream has seen, by its own count."""
    name = f"http.demo_upstream.rbac.policy.{POLICY}.allowed"
    found = re.search(rf"^{re.escape(name)}: (\d+)$", admin("GET", f"/stats?filter={re.escape(name)}"), re.MULTILINE)
    return int(found[1]) if found else 0


def metric(name, **labels):
    """The sum of a metric's series that have these labels."""
    total = 0
    for series in re.finditer(rf"^{name}{{(.*)}} (\S+)$", admin("GET", "/stats/prometheus"), re.MULTILINE):
        if all(f'{label}="{value}"' in series[1] for label, value in labels.items()):
            total += int(float(series[2]))
    return total


def state():
    return {0: "closed", 1: "half-open", 2: "open"}[metric("resilience_circuit_breaker_state", policy=POLICY)]


def becomes(wanted, seconds=3.0):
    """The state's gauge is set on a tick, so it may be a moment late."""
    deadline = time.monotonic() + seconds
    while (now := state()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return now == wanted


def buy():
    """One call of the shop, shown with all that tells its story."""
    before = upstream_calls()
    status, headers, body = call(EDGE, "POST", "/checkout")
    reached = upstream_calls() - before
    marks = [f"{name}: {headers[name]}" for name in ("x-resilience", "retry-after") if name in headers]
    line(f"POST /checkout  {status}  upstream called {reached}x  {body.strip()[:60]}")
    for mark in marks:
        line(f"                     {mark}")
    return status, headers, body, reached


def is_fallback(status, headers, body):
    try:
        same_body = json.loads(body) == FALLBACK["json"]
    except ValueError:
        same_body = False
    return status == FALLBACK["status"] and headers.get("x-resilience") == MARKER and same_body


def settle():
    """A demo may have been cut off half-way: wait until the breaker is closed, helping it with healthy calls."""
    deadline = time.monotonic() + WAIT + 10
    told = False
    while state() != "closed":
        if not told:
            line(f"the breaker is {state()} from before: waiting until it has closed")
            told = True
        if time.monotonic() > deadline:
            sys.exit("demo: the breaker does not close although the upstream is healthy")
        call(EDGE, "POST", "/checkout")
        time.sleep(0.5)


def fail_and_trip():
    chapter(f"2. The payment service breaks: demo.checkout.abort_percent=100 ({FAILURES} failures will open the breaker)")
    runtime("demo.checkout.abort_percent", "100")
    answers = [buy() for _ in range(FAILURES)]
    check(all(status == 503 and reached == 1 and "x-resilience" not in headers for status, headers, _, reached in answers),
          f"{FAILURES} calls reached it and failed, and their answers were left alone")
    opened = time.monotonic()
    check(becomes("open"), "the breaker is open")
    return opened


def show_fallback(opened):
    chapter("3. Open: the fallback is served, the upstream is left in peace")
    status, headers, body, reached = buy()
    check(is_fallback(status, headers, body), f"the answer is the configured fallback, marked {MARKER}")
    retry_after = headers.get("retry-after")
    if FALLBACK["status"] in (429, 503):
        check(retry_after is not None and 1 <= int(retry_after) <= WAIT, "it says when to come back")
    else:
        check(retry_after is None, f"a {FALLBACK['status']} is an answer, not a refusal: no retry-after")
    before = upstream_calls()
    answers = [call(EDGE, "POST", "/checkout") for _ in range(50)]
    check(all(is_fallback(*answer) for answer in answers), "50 more calls: 50 fallbacks")
    check(reached == 0 and upstream_calls() == before, "not one of them was seen by the upstream")
    health, _, _ = call(EDGE, "GET", "/health")
    other, headers, _ = call(EDGE, "GET", "/catalogue")
    check((health, other) == (200, 200) and "x-resilience" not in headers, "health checks and the catalogue do not notice")
    line(f"waiting: a call is let through {WAIT:g} s after the breaker opened")
    while time.monotonic() < opened + WAIT + 0.3:
        time.sleep(0.1)


def failed_probe():
    chapter("4. Half-open: one call is let through to probe; the service is still broken")
    status, _, _, reached = buy()
    check(status == 503 and reached == 1, "the probe reached the upstream, and failed")
    reopened = time.monotonic()
    check(becomes("open"), "the breaker is open again")
    status, headers, body, reached = buy()
    check(is_fallback(status, headers, body) and reached == 0, "the fallback is back, the upstream was called once in all")
    return reopened


def recovery(reopened):
    chapter("5. The payment service is repaired: demo.checkout.abort_percent= (taken back)")
    runtime("demo.checkout.abort_percent", "")
    status, headers, body, reached = buy()
    check(is_fallback(status, headers, body) and reached == 0, "nobody knows yet: the fallback until the wait is over")
    line(f"waiting: {WAIT:g} s after it opened")
    while time.monotonic() < reopened + WAIT + 0.3:
        time.sleep(0.1)
    status, headers, body, reached = buy()
    check(status == 200 and reached == 1 and "x-resilience" not in headers, "the probe reached the upstream, and succeeded")
    check(becomes("closed"), "the breaker is closed")
    answers = [buy() for _ in range(3)]
    check(all(status == 200 and reached == 1 for status, _, _, reached in answers), "every call goes to the upstream again")


# What the story must leave in the metrics, at least (other people may be using the shop).
GROWTH = (
    ("resilience_circuit_breaker_transitions_total", {"to": "open"}, 2),
    ("resilience_circuit_breaker_transitions_total", {"to": "half_open"}, 2),
    ("resilience_circuit_breaker_transitions_total", {"to": "closed"}, 1),
    ("resilience_rejections_total", {"reason": "circuit_open"}, 53),
    ("resilience_fallbacks_total", {"reason": "circuit_open", "source": "static"}, 53),
    ("resilience_calls_total", {"outcome": "success"}, 7),
    ("resilience_calls_total", {"outcome": "failure"}, FAILURES + 1),
)


def counters():
    return [metric(name, policy=POLICY, **labels) for name, labels, _ in GROWTH]


def summary(before):
    chapter("6. What the metrics say about it (/stats/prometheus)")
    for (name, labels, at_least), then, now in zip(GROWTH, before, counters()):
        shown = ",".join(f'{label}="{value}"' for label, value in {"policy": POLICY, **labels}.items())
        check(now - then >= at_least, f"{name}{{{shown}}} grew by {now - then}")


def main():
    try:
        admin("GET", "/ready")
    except OSError:
        sys.exit(f"demo: no stack answers on 127.0.0.1:{ADMIN}; start it with `make run` in another terminal")

    # Whatever a run before this one, or a visitor, has left switched on.
    for key in ("abort_percent", "delay_percent"):
        runtime(f"demo.checkout.{key}", "")
    try:
        chapter("1. Healthy: calls go to the upstream, answers come back untouched")
        settle()
        before = counters()
        answers = [buy() for _ in range(3)]
        check(all(status == 200 and reached == 1 and "x-resilience" not in headers for status, headers, _, reached in answers),
              "three calls, three answers of the upstream")
        opened = fail_and_trip()
        show_fallback(opened)
        reopened = failed_probe()
        recovery(reopened)
        summary(before)
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"demo: the stack stopped answering: {error!r}")
    finally:
        try:
            runtime("demo.checkout.abort_percent", "")
        except (OSError, http.client.HTTPException):
            pass  # it stopped, and its runtime with it

    print()
    if wrong:
        sys.exit(f"demo: {len(wrong)} of the things above are not as they should be")
    print("All as it should be.")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Shows on the running stack what the filter does: `make run` in one terminal, `make demo` in another.

First a circuit breaker, then a bulkhead, then retries, then what answers instead: a page of five services, and mails.

Everything is driven and seen from outside: requests to the edge, faults by Envoy's runtime, and the demo upstream's own
count of the calls that reached it. Ends with an error if anything it shows is not what should happen.
"""

import http.client
import json
import re
import sys
import time

sys.dont_write_bytecode = True
import demo_bulkhead  # noqa: E402 (nothing is left beside the bundle)
import demo_page  # noqa: E402
import demo_retry  # noqa: E402
from demo_stage import (  # noqa: E402
    ADMIN, CHECKOUT, EDGE, FALLBACK, Growth, admin, becomes, call, chapter, check, is_fallback, line, marker, repair_all,
    runtime, settle, upstream_calls, wrong
)

BREAKER = CHECKOUT["circuit_breaker"]
FAILURES = BREAKER["failures_in_window"]["failures"]
WAIT = float(re.fullmatch(r"(\d+)s", BREAKER["wait_duration_in_open_state"])[1])


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


def fail_and_trip():
    chapter(f"2. The payment service breaks: demo.checkout.abort_percent=100 ({FAILURES} failures will open the breaker)")
    runtime("demo.checkout.abort_percent", "100")
    answers = [buy() for _ in range(FAILURES)]
    check(all(reached == 1 and is_fallback(*answer, "upstream_failure") for *answer, reached in answers),
          f"{FAILURES} calls reached it and failed: their callers get the fallback, marked {marker('upstream_failure')}")
    opened = time.monotonic()
    check(becomes("open"), "the breaker is open")
    return opened


def show_fallback(opened):
    chapter("3. Open: the fallback is served, the upstream is left in peace")
    status, headers, body, reached = buy()
    check(is_fallback(status, headers, body), f"the answer is the configured fallback, marked {marker('circuit_open')}")
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
    *answer, reached = buy()
    check(is_fallback(*answer, "upstream_failure") and reached == 1, "the probe reached the upstream, and failed")
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


GROWTH = (
    ("resilience_circuit_breaker_transitions_total", {"to": "open"}, 2),
    ("resilience_circuit_breaker_transitions_total", {"to": "half_open"}, 2),
    ("resilience_circuit_breaker_transitions_total", {"to": "closed"}, 1),
    ("resilience_rejections_total", {"reason": "circuit_open"}, 53),
    ("resilience_fallbacks_total", {"reason": "circuit_open", "source": "static"}, 53),
    ("resilience_fallbacks_total", {"reason": "upstream_failure", "source": "static"}, FAILURES + 1),
    ("resilience_calls_total", {"outcome": "success"}, 7),
    ("resilience_calls_total", {"outcome": "failure"}, FAILURES + 1),
)


def main():
    try:
        admin("GET", "/ready")
    except OSError:
        sys.exit(f"demo: no stack answers on 127.0.0.1:{ADMIN}; start it with `make run` in another terminal")

    # Whatever a run before this one, or a visitor, has left switched on.
    repair_all()
    try:
        chapter("1. Healthy: calls go to the upstream, answers come back untouched")
        settle()
        growth = Growth(GROWTH)
        answers = [buy() for _ in range(3)]
        check(all(status == 200 and reached == 1 and "x-resilience" not in headers for status, headers, _, reached in answers),
              "three calls, three answers of the upstream")
        opened = fail_and_trip()
        show_fallback(opened)
        reopened = failed_probe()
        recovery(reopened)
        chapter("6. What the metrics say about it (/stats/prometheus)")
        growth.show()
        demo_bulkhead.story()
        demo_retry.story()
        demo_page.story()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"demo: the stack stopped answering: {error!r}")
    finally:
        try:
            repair_all()
        except (OSError, http.client.HTTPException):
            pass  # it stopped, and its runtime with it

    print()
    if wrong:
        sys.exit(f"demo: {len(wrong)} of the things above are not as they should be")
    print("All as it should be.")


if __name__ == "__main__":
    main()

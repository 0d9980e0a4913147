"""The demo's chapters on retries: they repair blips, and a budget keeps them from multiplying an outage."""

import collections
import concurrent.futures
import http.client
import math
import time

from demo_stage import (
    CHECKOUT, DOCUMENT, EDGE, Growth, call, chapter, check, eventually, line, marker, metric, read, runtime,
    settle, upstream_calls
)

RETRY, TIMEOUT = CHECKOUT["retry"], CHECKOUT["timeout"]
BUDGET = DOCUMENT["defaults"]["retry_budget"]
TTL = int(BUDGET["ttl"].removesuffix("s"))
FLOOR = BUDGET["min_retries_per_second"] * TTL
BLIPS = 100
SHARE = 20

# Its breaker only watches, and its route in envoy.yaml retries three times: nothing but the budget holds it back.
PRICING = "pricing"
ROUTE_RETRIES = 3
OUTAGE = 300
AT_ONCE = 8


def crowd(count, method, path, headers):
    """The answers to so many calls, a few at once, and how many attempts each took."""
    def one(_):
        status, answer, _ = call(EDGE, method, path, headers)
        return status, int(answer.get("x-envoy-attempt-count", 0))

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as callers:
        return list(callers.map(one, range(count)))


class Hanging:
    """A payment that hangs in the upstream, of a client that would have Envoy wait longer and repeat it."""

    def __init__(self):
        self.began = time.monotonic()
        self.connection = http.client.HTTPConnection("127.0.0.1", EDGE, timeout=30)
        self.connection.request("POST", "/checkout", headers={
            "x-envoy-fault-delay-request": "60000", "x-envoy-upstream-rq-timeout-ms": "60000",
            "x-envoy-upstream-rq-per-try-timeout-ms": "50000", "x-envoy-retry-on": "5xx", "x-envoy-max-retries": "10"
        })

    def answer(self):
        _, headers, _ = read(self.connection)
        self.connection.close()
        return headers.get("x-resilience"), int(headers.get("x-envoy-attempt-count", 0)), time.monotonic() - self.began


def blips():
    chapter(f"10. Blips: demo.checkout.blip_percent={SHARE} (the first attempts of {SHARE}% of the payments fail)")
    settle()
    growth = Growth((
        ("resilience_calls_total", {"outcome": "success"}, BLIPS),
        ("resilience_retries_total", {"decision": "granted"}, 1),
        ("resilience_retries_denied_total", {"reason": "not_idempotent"}, 1),
    ))
    before = upstream_calls()
    hanging = Hanging()
    eventually(lambda: upstream_calls() > before, 3.0)
    key = RETRY["idempotency_key"]
    runtime("demo.checkout.blip_percent", str(SHARE))
    before = upstream_calls()
    answers = crowd(BLIPS, "POST", "/checkout", {key: "order-4711"})
    reached = upstream_calls() - before
    good = sum(status == 200 for status, _ in answers)
    check(good == BLIPS, f"{good} of {BLIPS} payments with an {key} succeed: their callers notice nothing")
    check(reached == sum(attempts for _, attempts in answers) and max(attempts for _, attempts in answers) == 2,
          f"the upstream was called {reached}x: {reached - BLIPS} have failed once, and were repeated once")
    runtime("demo.checkout.blip_percent", "100")
    status, headers, _ = call(EDGE, "POST", "/checkout")
    failed = headers.get("x-resilience") == marker("upstream_failure")
    check(failed and headers.get("x-envoy-attempt-count") == "1",
          f"POST /checkout without that key  {status}, the fallback: nobody knows whether it may be repeated, so it is not")
    runtime("demo.checkout.blip_percent", "")
    mark, attempts, took = hanging.answer()
    check((mark, attempts) == (marker("timeout"), 1),
          f"one that hung meanwhile  the fallback after {took:.1f} s: per_try is {TIMEOUT['per_try']} and it is not repeated,"
          " whatever its x-envoy-* headers ask for")
    growth.show()


def balance():
    return metric("resilience_retry_budget_balance", policy=PRICING)


def bound(requests, took):
    """The most attempts that an outage of so many seconds can make of so many requests, where it begins with the floor."""
    slice_length = TTL / 10
    return math.floor(requests * (1 + BUDGET["percent_can_retry"] / 100)) + FLOOR * math.ceil((took + slice_length) / TTL)


def outage():
    chapter(f"11. An outage that no breaker stops: all of {PRICING} fails, its route retries {ROUTE_RETRIES} times")
    if balance() != FLOOR:
        line(f"the budget is at {balance()} from before: waiting until it is at its floor of {FLOOR}")
    check(eventually(lambda: balance() == FLOOR, 3.0 * TTL), f"the budget begins with its floor: {FLOOR} retries")
    growth = Growth((
        ("resilience_calls_total", {"outcome": "failure"}, OUTAGE),
        ("resilience_retries_total", {"decision": "granted"}, FLOOR // 2),
        ("resilience_retries_total", {"decision": "denied"}, OUTAGE // 2),
        ("resilience_retries_denied_total", {"reason": "budget"}, OUTAGE // 2),
    ), PRICING)
    began, before = time.monotonic(), upstream_calls(PRICING)
    answers = crowd(OUTAGE, "GET", "/pricing", {"x-envoy-fault-abort-request": "503"})
    took, reached = time.monotonic() - began, upstream_calls(PRICING) - before
    most = bound(OUTAGE, took)
    check(all(status == 503 for status, _ in answers), f"{OUTAGE} calls, {OUTAGE} failures")
    check(OUTAGE < reached <= most,
          f"the upstream was called {reached}x, at most {most} by the budget: {OUTAGE} + {BUDGET['percent_can_retry']}% and"
          f" the floor; without it {OUTAGE * (1 + ROUTE_RETRIES)}x, {ROUTE_RETRIES} retries each")
    shares = sorted(collections.Counter(attempts - 1 for _, attempts in answers).items())
    line("retries per call: " + ", ".join(f"{retries} for {calls}" for retries, calls in shares))
    status, headers, _ = call(EDGE, "GET", "/pricing")
    check(status == 200 and "x-resilience" not in headers,
          f"GET /pricing, repaired  {status}: a request is never denied, only its retries are")
    # On a machine that stood still it has come back meanwhile.
    spent = eventually(lambda: balance() < FLOOR, 3.0) or time.monotonic() - began > TTL / 2
    check(spent, f'resilience_retry_budget_balance{{policy="{PRICING}"}} is {balance()},'
                 f" and {FLOOR} again when {TTL} s have passed")
    growth.show()


def story():
    blips()
    outage()

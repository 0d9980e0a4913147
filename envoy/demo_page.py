"""The demo's chapters on fallbacks: a page of five services of which any may be down, and mails that take another way."""

import concurrent.futures
import json
import re
import time

from demo_stage import (
    DOCUMENT, EDGE, Growth, call, chapter, check, eventually, line, runtime, state, upstream_calls
)

POLICIES = {policy["name"]: policy for policy in DOCUMENT["policies"]}
REPLICA = "product_replica"
MAIL, SECONDARY = "email", "email_secondary"
HANGS = "reviews"
FAILURES = POLICIES["product"]["circuit_breaker"]["consecutive_failures"]
# What is waited for here is on the policies' own clocks, which may have run out twice.
PATIENCE = 20.0


def policy_wait(policy):
    return float(re.fullmatch(r"(\d+)s", POLICIES[policy]["circuit_breaker"]["wait_duration_in_open_state"])[1])


class Page:
    """What a browser makes of GET /page: it reads the list of parts in it, and asks for all of them at once."""

    def __init__(self):
        status, _, html = call(EDGE, "GET", "/page")
        listed = re.search(r'<script type="application/json" id="parts">(.*?)</script>', html, re.DOTALL)
        check(status == 200 and listed is not None, "GET /page  200: a frame, and a list of the parts that fill it")
        self.parts = json.loads(listed[1])
        self.names = [part["name"] for part in self.parts]
        self.counted = [*self.names, REPLICA]
        self.whole = None

    def load(self):
        """All the parts, by name, how often the upstream was called for each, and how long it took."""
        before = {name: upstream_calls(name) for name in self.counted}
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(len(self.parts)) as browser:
            ask = lambda part: call(EDGE, "GET", part["path"], {"accept": part["accept"]})
            answers = dict(zip(self.names, browser.map(ask, self.parts)))
        took = time.monotonic() - began
        return answers, {name: upstream_calls(name) - before[name] for name in self.counted}, took

    def is_whole(self, answers):
        return all("x-resilience" not in headers and status == 200 for status, headers, _ in answers.values())

    def others_are_whole(self, answers, *broken):
        same = lambda name: answers[name][0] == 200 and answers[name][2] == self.whole[name][2]
        return all(same(name) and "x-resilience" not in answers[name][1] for name in self.names if name not in broken)


def show(name, answer, reached):
    status, headers, body = answer
    line(f"  {name:<16}{status}  upstream called {reached}x  {' '.join(body.split())[:72]}")
    marks = [f"{each}: {headers[each]}" for each in ("x-resilience", "retry-after") if each in headers]
    if marks:
        line(f"  {'':<16}     {'   '.join(marks)}")


def heal(page):
    """Asks for the page until all of it is the services' own: who was down is found well by those who ask."""
    def whole():
        answers, reached, _ = page.load()
        return (answers, reached) if page.is_whole(answers) else None

    return eventually(whole, PATIENCE)


def source_of(policy):
    """What answers for a policy in the end: its last entry's."""
    return "fail" if "fail" in POLICIES[policy]["fallback"][-1] else "static"


def one_after_another(page):
    chapter("13. Each of the five breaks in its turn: the page still comes")
    for name in page.names:
        line(f"demo.{name}.abort_percent=100")
        runtime(f"demo.{name}.abort_percent", "100")
        answers, reached, _ = page.load()
        runtime(f"demo.{name}.abort_percent", "")
        show(name, answers[name], reached[name])
        marker = f"{name};reason=upstream_failure;source={source_of(name)}"
        check(answers[name][1].get("x-resilience") == marker and page.others_are_whole(answers, name),
              "the caller is told so, and the other four parts are whole")
    price = POLICIES["pricing"]["fallback"][-1]["fail"]["status"]
    line(f"The price alone fails loudly, with {price}: a guess would be worse than none.")
    line(f"demo.{HANGS}.delay_percent=100")
    runtime(f"demo.{HANGS}.delay_percent", "100")
    answers, reached, took = page.load()
    runtime(f"demo.{HANGS}.delay_percent", "")
    show(HANGS, answers[HANGS], reached[HANGS])
    marker = f"{HANGS};reason=timeout;source=static"
    check(answers[HANGS][1].get("x-resilience") == marker and page.others_are_whole(answers, HANGS),
          f"one that hangs costs its route's timeout: the page was there after {took:.1f} s")


def lasting(page):
    chapter("14. Two of them stay down: their breakers open, and the fallbacks know it")
    down = ("product", "inventory")
    for name in down:
        runtime(f"demo.{name}.abort_percent", "100")
    marker = lambda name: answers[name][1].get("x-resilience")
    pages = 0
    # More than the breakers count only where the machine stood still until they let a probe through.
    while True:
        answers, reached, _ = page.load()
        if all(";reason=circuit_open;" in (marker(name) or "") for name in down) or pages >= 2 * FAILURES:
            break
        pages += 1
        check(all((marker(name) or "").startswith(f"{name};reason=") for name in down),
              f"page {pages} with {' and '.join(down)} failing: each has what is kept for that, and the breakers count")
    for name in (*down, "recommendations"):
        show(name, answers[name], reached[name])
    check(marker("product") == "product;reason=circuit_open;source=reroute" and (reached["product"], reached[REPLICA]) == (0, 1),
          "product: refused requests go to the read replica, which has all that is known; the service is left in peace")
    check(marker("inventory") == "inventory;reason=circuit_open;source=static" and reached["inventory"] == 0,
          "inventory: likely available, and nobody asked")
    quiet = "recommendations;reason=dependency_open;source=static"
    check(marker("recommendations") == quiet and reached["recommendations"] == 0,
          "recommendations: well themselves, but quiet while nobody knows what is in stock (when_open)")
    check(page.others_are_whole(answers, *down, "recommendations"), "the other parts are whole")
    for name in down:
        runtime(f"demo.{name}.abort_percent", "")
    line(f"repaired; waiting: probes are let through {max(map(policy_wait, down)):g} s after the breakers opened")
    check(heal(page) is not None, "the page is whole again")


def growth_of_page(page):
    replaced = [("resilience_fallbacks_total", {"policy": name, "reason": "upstream_failure", "source": source_of(name)}, 1)
                for name in page.names]
    return Growth([
        *replaced,
        ("resilience_fallbacks_total", {"policy": HANGS, "reason": "timeout", "source": "static"}, 1),
        ("resilience_fallbacks_total", {"policy": "product", "reason": "circuit_open", "source": "reroute"}, 1),
        ("resilience_fallbacks_total", {"policy": "recommendations", "reason": "dependency_open", "source": "static"}, 1),
        ("resilience_calls_total", {"policy": "product-replica", "outcome": "success"}, 1),
    ])


def mails():
    chapter("15. The mail provider breaks: a second one takes over, and only the first one's failures are seen")
    growth = Growth((
        ("resilience_fallbacks_total", {"reason": "circuit_open", "source": "reroute"}, 5),
        ("resilience_calls_total", {"policy": "email-secondary", "outcome": "success"}, 5),
    ), MAIL)
    most = POLICIES[MAIL]["circuit_breaker"]["consecutive_failures"]
    runtime(f"demo.{MAIL}.abort_percent", "100")
    send = lambda: call(EDGE, "POST", "/email/welcome", {"host": "shop.example"})
    if state(MAIL) != "closed":
        line(f"the breaker is {state(MAIL)} from before: fewer mails fail, or none")
    failures = 0
    while (answer := send())[0] >= 500 and failures <= most:
        status, headers, body = answer
        failures += 1
        line(f"POST /email/welcome  {status}  {body.strip()[:60]}")
        check("x-resilience" not in headers, "no fallback: whoever sends a mail has to know that it was not sent")
    check(failures <= most, f"{failures} have failed, and the breaker is open")
    before = {name: upstream_calls(name) for name in (MAIL, SECONDARY)}
    answers = [send() for _ in range(5)]
    first, second = (upstream_calls(name) - before[name] for name in (MAIL, SECONDARY))
    status, headers, body = answers[-1]
    line(f"POST /email/welcome  {status}  {body.strip()[:60]}")
    line(f"                     x-resilience: {headers.get('x-resilience')}")
    marker = f"{MAIL};reason=circuit_open;source=reroute"
    check(all(status == 200 and headers.get("x-resilience") == marker for status, headers, _ in answers),
          "5 more mails are accepted, and marked as sent another way")
    check((first, second) == (0, 5),
          f"the first provider was called {first}x, the second one {second}x, by way of a route of its own")
    runtime(f"demo.{MAIL}.abort_percent", "")
    line(f"repaired; the first one is asked again when its breaker's wait ({policy_wait(MAIL):g} s, and more each time) is over")
    growth.show()


def story():
    chapter("12. A product page that is made of five services, each with a policy of its own")
    page = Page()
    healthy = heal(page)
    if not check(healthy is not None, "all five parts come, and none is marked"):
        return
    page.whole, reached = healthy
    for name, answer in page.whole.items():
        show(name, answer, reached[name])
    growth = growth_of_page(page)
    one_after_another(page)
    lasting(page)
    growth.show()
    mails()

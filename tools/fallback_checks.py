"""What makes fallbacks useless or wrong in an Envoy configuration that is valid: warnings of tools/limits."""

from envoy_config import at, clusters_of, connection_managers, kind, plugins, policies_of

REROUTE = "x-resilience-reroute"
# HTTP filters that answer requests themselves, by the names of their configurations.
ANSWERS = {
    "AdaptiveConcurrency", "AdmissionControl", "ApiKeyAuth", "BasicAuth", "Buffer", "CacheConfig", "CsrfPolicy", "ExtAuthz",
    "HealthCheck", "JwtAuthentication", "LocalRateLimit", "OAuth2", "RateLimit", "RateLimitQuotaFilterConfig", "RBAC"
}
# Those that speak another protocol with the client.
TRANSLATES = {"GrpcJsonTranscoder", "GrpcWeb", "grpc_http1_bridge.v3.Config"}
REFUSALS = {"refusal", "circuit_open", "bulkhead_full", "dependency_open", "deadline_exceeded"}
# What failures of Envoy's own have for a status.
FAILURES = range(500, 505)


def fallback_of(found, policy):
    """The entries of a policy that can ever answer."""
    entries = policy["fallback"] if "fallback" in policy else at(found, "defaults", "fallback")
    return [] if policy.get("mode") == "disabled" else entries or []


def reroutes(found, policy):
    return [entry["reroute"] for entry in fallback_of(found, policy) if at(entry, "reroute", "cluster")]


def first_plugin(manager):
    """The place of the filter in a listener's list, and its document; None where it has none."""
    for place, each in enumerate(manager.get("http_filters") or []):
        for _, found in plugins({"http_filters": [each]}):
            return place, found
    return None


def guarding(bootstrap):
    """The listeners with the filter: their names, their connection managers, its place and its document."""
    for listener, manager in connection_managers(bootstrap):
        if first := first_plugin(manager):
            yield listener, manager, *first


def names_of(route):
    return f"route {route.get('name') or route.get('match')}"


# ---------------------------------------------------------------------------------------------------------- reroutes


def steers(matcher):
    return str(matcher.get("name")).lower() == REROUTE


def takes(matcher, cluster):
    """Whether a route's header matcher lets through what is steered to a cluster; in doubt it does."""
    exact = matcher.get("exact_match", at(matcher, "string_match", "exact"))
    prefix = matcher.get("prefix_match", at(matcher, "string_match", "prefix"))
    fits = (exact is None or exact == cluster) and (prefix is None or cluster.startswith(prefix))
    return (fits and matcher.get("present_match") is not False) != bool(matcher.get("invert_match"))


def path_of(route):
    match = route.get("match") or {}
    return match.get("path") or match.get("prefix") or match.get("path_separated_prefix") or ""


def overlap(one, other):
    """Whether a request may fit the paths of both; a regular expression fits all."""
    one, other = path_of(one), path_of(other)
    return one.startswith(other) or other.startswith(one)


def by_header(route):
    return str(at(route, "route", "cluster_header")).lower() == REROUTE


def way_of(routes, route, cluster):
    """The first route that takes the requests of another one once they are steered to a cluster; None if they stay there."""
    for each in routes:
        if each is route:
            return None
        matchers = [matcher for matcher in at(each, "match", "headers") or [] if steers(matcher)]
        if (matchers or by_header(each)) and all(takes(matcher, cluster) for matcher in matchers) and overlap(each, route):
            return each
    return None


def is_removed(*places):
    return any(str(name).lower() == REROUTE for place in places for name in (place or {}).get("request_headers_to_remove") or [])


def lost_reroutes(bootstrap):
    clusters = {each.get("name") for each in at(bootstrap, "static_resources", "clusters") or []}
    # What is discovered later is not in the file.
    known = clusters if at(bootstrap, "dynamic_resources", "cds_config") is None else None
    for _, manager, _, found in guarding(bootstrap):
        config = manager.get("route_config") or {}
        for host in config.get("virtual_hosts") or []:
            for route in host.get("routes") or []:
                for policy in policies_of(found, route, host.get("domains") or []):
                    for reroute in reroutes(found, policy):
                        yield from lost(config, host, route, f"policy {policy['name']}", reroute["cluster"], known)


def lost(config, host, route, policy, cluster, known):
    if known is not None and cluster not in known:
        yield f"{policy}: reroute to cluster {cluster}, which does not exist: who is sent there gets 503; define the cluster"
        return
    way = way_of(host["routes"], route, cluster)
    if way is None:
        yield (f"{policy}: reroute to cluster {cluster}, but no route leads there from {names_of(route)}: a refused request goes"
               f" to the upstream that it was refused for; before that route put one that matches the header {REROUTE} with"
               f" {cluster}, or one with that cluster_header")
        return
    if not by_header(way) and cluster not in clusters_of(way):
        yield (f"{policy}: reroute to cluster {cluster}, but {names_of(way)}, which takes what is steered there, leads elsewhere:"
               f" give it that cluster")
    if not is_removed(way, host, config):
        yield (f"{names_of(way)}: {REROUTE} goes on to the upstream: if that has this filter too it refuses the request with 400;"
               f" add request_headers_to_remove: [{REROUTE}] to the route")


def unstripped_steering(bootstrap):
    for listener, manager, _, found in guarding(bootstrap):
        routes = [route for host in at(manager, "route_config", "virtual_hosts") or [] for route in host.get("routes") or []]
        matched = any(by_header(route) or any(map(steers, at(route, "match", "headers") or [])) for route in routes)
        if not matched and not any(reroutes(found, policy) for policy in found["policies"]):
            continue
        extensions = manager.get("early_header_mutation_extensions") or []
        mutations = [each for extension in extensions for each in at(extension, "typed_config", "mutations") or []]
        if not any(str(each.get("remove")).lower() == REROUTE for each in mutations):
            yield (f"listener {listener}: {REROUTE} is not taken from clients: who sends it chooses the route, and is refused with"
                   f" 400 where the filter sees it; remove it in early_header_mutation_extensions")


# ---------------------------------------------------------------------------------------------- the order of filters


def misplaced_filters(bootstrap):
    for listener, manager, place, _ in guarding(bootstrap):
        for each in manager["http_filters"][place + 1:]:
            config = each.get("typed_config")
            what = f"listener {listener}: {each.get('name')} stands behind the filter"
            if each.get("disabled"):
                continue
            if kind(config, "HTTPFault"):
                yield (f"{what}: a fault that it injects is nobody's failure: no breaker opens, and no fallback answers; have the"
                       " upstream fail, or put it in front")
            elif any(kind(config, name) for name in ANSWERS):
                yield (f"{what} and answers by itself: whom it turns away has taken a permit or a probe, proves nothing, and gets"
                       " no fallback; put it in front")
            elif kind(config, "Cors"):
                yield (f"{what}: it never sees a request that is refused, and a browser hides our answer from the page; it"
                       " also has preflights counted, and refused; put it in front")
            elif kind(config, "Compressor"):
                yield f"{what}: our answers, and what takes the place of a failed one, are not compressed; put it in front"
            elif any(kind(config, name) for name in TRANSLATES):
                yield f"{what}: our answers reach its callers in another protocol than they speak; put it in front"


# -------------------------------------------------------------------------------------------------- local replies


def may_match(condition, status, ours):
    """Whether an access log filter may choose a local reply with this status; in doubt it does."""
    both = [may_match(each, status, ours) for each in at(condition, "and_filter", "filters") or []]
    either = [may_match(each, status, ours) for each in at(condition, "or_filter", "filters") or []]
    if both or either:
        return all(both) and (not either or any(either))
    if at(condition, "response_flag_filter") is not None:
        return not ours  # no flag is set where the filter answers
    comparison = at(condition, "status_code_filter", "comparison")
    if comparison is None:
        return True
    value = int(at(comparison, "value", "default_value") or 0)
    operation = comparison.get("op") or "EQ"
    holds = {"EQ": status == value, "NE": status != value, "GE": status >= value, "LE": status <= value}
    return holds.get(operation, True)


def mapper_of(mappers, status, ours):
    return next((each for each in mappers if may_match(each.get("filter"), status, ours)), {})


def becomes(mappers, status, ours):
    return int(mapper_of(mappers, status, ours).get("status_code", status))


def rewritten_replies(bootstrap):
    """What the connection manager makes of local replies. Those to refused requests are among them: ours, and plain refusals."""
    for listener, manager, _, found in guarding(bootstrap):
        replies = manager.get("local_reply_config") or {}
        mappers = replies.get("mappers") or []
        place = f"listener {listener}: local_reply_config"
        cure = "have its mappers match by response flag, which our answers do not have"
        for (status, told), policies in changed_statuses(found, mappers).items():
            yield f"{place} makes {told} of {status}, the answer of {whose(policies)} to refused requests; {cure}"
        if policies := changed_bodies(found, replies, mappers):
            yield f"{place} writes over the body that {whose(policies)} has for refused requests; {cure}"
        for policy in found["policies"]:
            for status, told in unmet_statuses(fallback_of(found, policy), mappers):
                yield (f"{place} makes {told} of Envoy's {status} before the filter sees it: an entry of policy"
                       f" {policy['name']} that goes by {status} does not answer; leave the status to the policies")


def whose(policies):
    return f"policy {policies[0]}" if len(policies) == 1 else "policies " + ", ".join(policies)


def fixed_answers(found):
    """What policies have for refused requests: their names, the statuses, and whether there is a body of the operator's."""
    for policy in found["policies"]:
        for entry in fallback_of(found, policy):
            answer = entry.get("static") or entry.get("fail")
            is_for_refusals = not REFUSALS.isdisjoint(entry.get("on", REFUSALS)) and not {"status", "grpc_status"} & set(entry)
            if answer and answer.get("status") and is_for_refusals:
                yield policy["name"], int(answer["status"]), any(key in answer for key in ("text", "json", "base64"))


def changed_statuses(found, mappers):
    changed = {}
    for policy, status, _ in fixed_answers(found):
        if (told := becomes(mappers, status, True)) != status:
            changed.setdefault((status, told), []).append(policy)
    return {key: list(dict.fromkeys(policies)) for key, policies in changed.items()}


def changed_bodies(found, replies, mappers):
    # A mapper's own body, or format, goes before the one for all.
    writes = lambda mapper: "body" in mapper or "body_format_override" in mapper or "body_format" in replies
    return list(dict.fromkeys(policy for policy, status, has_body in fixed_answers(found)
                              if has_body and writes(mapper_of(mappers, status, True))))


def unmet_statuses(entries, mappers):
    """The statuses of Envoy's own failures that an entry goes by, and that it does not get to see."""
    for entry in entries:
        wanted = [str(each).replace("x", "") for each in entry.get("status") or []]
        meets = lambda status: any(str(status).startswith(each) for each in wanted)
        for status in filter(meets, FAILURES):
            if not meets(told := becomes(mappers, status, False)):
                yield status, told


CHECKS = (lost_reroutes, unstripped_steering, misplaced_filters, rewritten_replies)

"""What an Envoy configuration says of itself: its listeners, the policies in them, and which requests are whose."""

import fnmatch
import json
import re

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def seconds(duration):
    """Of a duration as Envoy or a policy writes it; 0 for none."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)(h|ms|us|ns|m|s)", str(duration or "")))


def at(value, *path):
    """What is found along these keys, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def kind(config, name):
    return str(at(config, "@type")).endswith("." + name)


def connection_managers(bootstrap):
    for listener in at(bootstrap, "static_resources", "listeners") or []:
        for chain in [*(listener.get("filter_chains") or []), listener.get("default_filter_chain") or {}]:
            for each in chain.get("filters") or []:
                if kind(at(each, "typed_config"), "HttpConnectionManager"):
                    yield str(listener.get("name")), each["typed_config"]


def documents(manager):
    """The filters of a listener that are ours: what Envoy is told of each, and what it is configured with."""
    for each in manager.get("http_filters") or []:
        plugin = at(each, "typed_config", "config")
        value = at(plugin, "configuration", "value")
        if not kind(at(each, "typed_config"), "Wasm") or value is None:
            continue
        try:
            found = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            continue
        if at(found, "policies"):
            yield plugin, found


def for_operators(found):
    """Which of the keys a document has that make of its filter one that answers operators, and guards nothing."""
    return [key for key in ("control", "state") if found.get(key)]


def plugins(manager):
    """Those of them that guard anything."""
    return ((plugin, found) for plugin, found in documents(manager) if not for_operators(found))


def section(found, policy, name):
    """A section of a policy, over what it inherits; None where it has none or it is switched off."""
    own, inherited = policy.get(name, {}), at(found, "defaults", name)
    if own is None or name not in policy and inherited is None:
        return None
    merged = {**(inherited or {}), **own}
    return None if "disabled" in (policy.get("mode"), merged.get("mode")) else merged


def enforced(found, policy, name):
    """The same; None also in shadow mode."""
    merged = section(found, policy, name)
    return None if merged is None or "shadow" in (policy.get("mode"), merged.get("mode")) else merged


def hosts_meet(host, domain):
    return host == domain or fnmatch.fnmatch(host, domain) or fnmatch.fnmatch(domain, host)


def paths_meet(path, match):
    prefix = match.get("prefix", match.get("path_separated_prefix"))
    theirs = match.get("path", prefix)
    if theirs is None:
        return True  # a regular expression, or something newer
    ours = path.get("exact", path.get("prefix", ""))
    return ours == theirs or "prefix" in path and theirs.startswith(ours) or theirs == prefix and ours.startswith(theirs)


def rank(alternative, route, domains):
    """How an alternative of `match` finds a route: 0 by metadata, 1 by name, 2 by the rest; None if it does not."""
    wanted = alternative.get("metadata")
    if wanted and at(route, "metadata", "filter_metadata", wanted.get("namespace"), wanted.get("key")) != wanted.get("value"):
        return None
    if "route" in alternative and route.get("name") != alternative["route"]:
        return None
    if "host" in alternative and not any(hosts_meet(alternative["host"], domain) for domain in domains):
        return None
    if "path" in alternative and not paths_meet(alternative["path"], route.get("match") or {}):
        return None
    return 0 if wanted else 1 if "route" in alternative else 2


def policies_of(found, route, domains):
    """The policies that requests of a route may belong to."""
    ranks, certain = [], 2
    for policy in found["policies"]:
        for alternative in policy.get("match") or []:
            place = rank(alternative, route, domains)
            if place is None:
                continue
            ranks.append((place, policy))
            # Nothing in a request can keep this one from it, so none that ranks below it gets any.
            if set(alternative) <= {"metadata", "route"}:
                certain = min(certain, place)
    return {policy["name"]: policy for place, policy in ranks if place <= certain}.values()


def clusters_of(route):
    action = route.get("route") or {}
    weighted = at(action, "weighted_clusters", "clusters") or []
    return [name for name in [action.get("cluster"), *(each.get("name") for each in weighted)] if name]

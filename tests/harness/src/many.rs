//! A document of many policies, as a platform team writes one for all its services: generated, so that tests and benchmarks
//! mean the same by it.

use crate::client::Request;
use crate::config;
use hyper::Method;
use serde_json::{Value, json};

/// What a policy of [`document`] is matched by. The kinds take turns, so that index `i` is of kind `i % 6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The route's name.
    Route,
    /// A value in the route's metadata.
    Metadata,
    /// A host, a prefix and methods.
    HostPathMethods,
    /// An exact path.
    ExactPath,
    /// A path and all below it.
    Prefix,
    /// All hosts below one.
    WildcardHost,
}

impl Kind {
    /// Every kind, in the order in which they take turns.
    pub const ALL: [Self; 6] = [
        Self::Route,
        Self::Metadata,
        Self::HostPathMethods,
        Self::ExactPath,
        Self::Prefix,
        Self::WildcardHost,
    ];

    /// The kind of a policy.
    #[must_use]
    pub fn of(index: usize) -> Self {
        Self::ALL[index % Self::ALL.len()]
    }
}

/// A policy's name.
#[must_use]
pub fn name(index: usize) -> String {
    format!("service-{index:05}")
}

/// A document of this many policies. Each has a breaker that trips at the second failure in a row and then refuses for as
/// long as a test takes, half of what they say is inherited, and each has a fallback of its own that shows its name.
#[must_use]
pub fn document(policies: usize) -> Value {
    json!({
        "defaults": {
            "circuit_breaker": {
                "failures_in_window": {"failures": 100, "window": "10s"},
                "wait_duration_in_open_state": "24h",
                "permitted_number_of_calls_in_half_open_state": 5,
            },
        },
        "policies": (0..policies).map(policy).collect::<Vec<_>>(),
    })
}

fn policy(index: usize) -> Value {
    let message = "This part of the shop is resting. Your basket is kept; please try again in a moment.";
    json!({
        "name": name(index),
        "match": [pattern(index)],
        "circuit_breaker": {"consecutive_failures": 2},
        "fallback": [{"on": ["refusal"], "static": {
            "status": 503,
            "headers": {"cache-control": "no-store"},
            "json": {"service": name(index), "message": message, "reason": "%REASON%"},
        }}],
    })
}

fn pattern(index: usize) -> Value {
    let name = name(index);
    match Kind::of(index) {
        Kind::Route => json!({"route": name}),
        Kind::Metadata => json!({"metadata": {"namespace": "shop", "key": "policy", "value": name}}),
        Kind::HostPathMethods => json!({
            "host": format!("{name}.shop.example"),
            "path": {"prefix": format!("/api/{name}")},
            "methods": ["GET", "POST"],
        }),
        Kind::ExactPath => json!({"path": {"exact": format!("/pages/{name}")}}),
        Kind::Prefix => json!({"path": {"prefix": format!("/services/{name}")}}),
        Kind::WildcardHost => json!({"host": format!("*.{name}.tenants.example")}),
    }
}

/// A GET that belongs to a policy of [`document`], where [`routes`] of it lead to the upstream.
#[must_use]
pub fn request(index: usize) -> Request {
    let (host, path) = target(index);
    Request::new(Method::GET, &path).authority(&host)
}

/// Host and path of [`request`].
#[must_use]
pub fn target(index: usize) -> (String, String) {
    let name = name(index);
    match Kind::of(index) {
        Kind::Route | Kind::Metadata => ("edge.example".to_owned(), format!("/routed/{name}/7")),
        Kind::HostPathMethods => (format!("{name}.shop.example"), format!("/api/{name}/orders/7")),
        Kind::ExactPath => ("edge.example".to_owned(), format!("/pages/{name}")),
        Kind::Prefix => ("edge.example".to_owned(), format!("/services/{name}/orders/7")),
        Kind::WildcardHost => (format!("www.{name}.tenants.example"), "/".to_owned()),
    }
}

/// Routes to a cluster: one for each of these policies that is matched by its route, then one for all else. A route for
/// each of ten thousand policies would measure Envoy's own table, which it looks through from its top.
#[must_use]
pub fn routes(policies: &[usize], cluster: &str) -> Vec<Value> {
    let routed = policies.iter().filter_map(|index| {
        let prefix = format!("/routed/{}", name(*index));
        let mut route = config::route(&name(*index), &prefix, cluster);
        match Kind::of(*index) {
            Kind::Route => {}
            Kind::Metadata => {
                route["name"] = "by-metadata".into();
                route["metadata"] = json!({"filter_metadata": {"shop": {"policy": name(*index)}}});
            }
            _ => return None,
        }
        Some(route)
    });
    routed.chain([config::route("all-else", "/", cluster)]).collect()
}

//! What `make validate` says of a bundle in which something makes its fallbacks useless or wrong.

use super::validate::assert_found;
use super::{exchanged, rendered};

/// The route of the second mail provider, from its name to its cluster.
const SECOND: &str = "              - name: email-secondary
                match:
                  prefix: /email/
                  headers:
                  - name: x-resilience-reroute
                    string_match: {exact: email_secondary}
                request_headers_to_remove: [x-resilience-reroute]
                route:
                  cluster: email_secondary
                  prefix_rewrite: /email_secondary/
                  timeout: 5s
                  idle_timeout: 10s
";
const LOST: &str =
    "policy email: reroute to cluster email_secondary, but no route leads there from route email:";
const ROUTER: &str = "          - name: envoy.filters.http.router\n";
const OURS: &str = "          - name: resilience\n";
const TIMEOUT: &str =
    "          request_headers_timeout: 10s\n          request_timeout: 30s\n          stream";

/// The bundle with the second provider's route changed.
fn second(passage: &str, other: &str) -> String {
    exchanged(&rendered(&[]), SECOND, &exchanged(SECOND, passage, other))
}

#[test]
fn a_reroute_that_no_route_takes_is_warned_of() {
    for (passage, other) in [
        ("exact: email_secondary", "exact: secondary"),
        ("exact: email_secondary", "prefix: secondary"),
        ("string_match: {exact: email_secondary}", "present_match: false"),
        ("string_match: {exact: email_secondary}", "exact_match: email_secondary, invert_match: true"),
        ("prefix: /email/", "prefix: /mail/"),
        ("name: x-resilience-reroute", "name: x-reroute"),
    ] {
        let other = other.replace(", ", "\n                    ");
        assert_found(&second(passage, &other), &[LOST]);
    }
    for (passage, other) in [
        ("exact: email_secondary", "prefix: email_"),
        ("string_match: {exact: email_secondary}", "present_match: true"),
        ("string_match: {exact: email_secondary}", "exact_match: email_secondary"),
        ("prefix: /email/", "prefix: /"),
        ("prefix: /email/", "safe_regex: {regex: /email/.*}"),
        ("name: x-resilience-reroute", "name: X-Resilience-Reroute"),
    ] {
        assert_found(&second(passage, other), &[]);
    }
    // It comes too late: the request's own route takes it.
    let admin = "              - name: admin\n                match:";
    let behind = exchanged(&exchanged(&rendered(&[]), SECOND, ""), admin, &format!("{SECOND}{admin}"));
    assert_found(&behind, &[LOST]);
    let disabled = exchanged(&behind, r#""name": "email","#, r#""name": "email", "mode": "disabled","#);
    assert_found(&disabled, &[]);
}

#[test]
fn a_reroute_has_to_lead_to_its_cluster() {
    let elsewhere = second("cluster: email_secondary", "cluster: email");
    let leads = "policy email: reroute to cluster email_secondary, but route email-secondary, which takes";
    assert_found(&elsewhere, &[leads]);
    let shares =
        "weighted_clusters: {clusters: [{name: email_secondary, weight: 1}, {name: email, weight: 1}]}";
    assert_found(&second("cluster: email_secondary", shares), &[]);

    // One route for all that is steered, by the name of the cluster itself.
    let by_name = second("cluster: email_secondary", "cluster_header: x-resilience-reroute");
    assert_found(&by_name, &[]);
    let headers = "                  headers:
                  - name: x-resilience-reroute
                    string_match: {exact: email_secondary}
";
    assert_found(&exchanged(&by_name, headers, ""), &[]);

    let cluster = r#""cluster": "email_secondary""#;
    let unknown = exchanged(&rendered(&[]), cluster, r#""cluster": "mails""#);
    assert_found(&unknown, &["policy email: reroute to cluster mails, which does not exist: who is sent"]);
    let discovered =
        format!("{unknown}dynamic_resources: {{cds_config: {{path_config_source: {{path: x}}}}}}\n");
    assert_found(&discovered, &["policy email: reroute to cluster mails, but no route leads there"]);
}

#[test]
fn what_steers_stays_inside() {
    let removed = "                request_headers_to_remove: [x-resilience-reroute]\n";
    let kept = exchanged(&rendered(&[]), removed, "");
    let goes_on = |route: &str| format!("route {route}: x-resilience-reroute goes on to the upstream:");
    let both = [goes_on("product-replica"), goes_on("email-secondary")];
    assert_found(&kept, &[&both[0], &both[1]]);
    let host = "              include_request_attempt_count: true\n";
    let of_host = exchanged(&kept, host, &format!("{}{host}", &removed[2..]));
    assert_found(&of_host, &[]);

    let stripped = "              - remove: x-resilience-reroute\n";
    let taken = "listener edge: x-resilience-reroute is not taken from clients:";
    assert_found(&exchanged(&rendered(&[]), stripped, ""), &[taken]);
}

#[test]
fn filters_behind_ours_that_belong_in_front_are_warned_of() {
    let filter = |package: &str, name: &str, disabled: bool| {
        format!(
            "          - name: misplaced
            disabled: {disabled}
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.{package}.v3.{name}
"
        )
    };
    let answers = "listener edge: misplaced stands behind the filter and answers by itself:";
    for (package, name, warned) in [
        ("ext_authz", "ExtAuthz", answers),
        ("jwt_authn", "JwtAuthentication", answers),
        ("local_ratelimit", "LocalRateLimit", answers),
        ("ratelimit", "RateLimit", answers),
        ("rbac", "RBAC", answers),
        ("fault", "HTTPFault", "listener edge: misplaced stands behind the filter: a fault that it injects"),
        ("cors", "Cors", "listener edge: misplaced stands behind the filter: it never sees a request"),
        (
            "grpc_web",
            "GrpcWeb",
            "listener edge: misplaced stands behind the filter: our answers reach its callers",
        ),
        (
            "grpc_http1_bridge",
            "Config",
            "listener edge: misplaced stands behind the filter: our answers reach its callers",
        ),
        ("compressor", "Compressor", "listener edge: misplaced stands behind the filter: our answers, and"),
    ] {
        let with = |place: &str, disabled: bool| {
            let edge = rendered(&[]);
            let (before, after) = edge.split_once(place).expect("a filter");
            format!("{before}{}{place}{after}", filter(package, name, disabled))
        };
        assert_found(&with(ROUTER, false), &[warned]);
        assert_found(&with(ROUTER, true), &[]);
        assert_found(&with(OURS, false), &[]);
    }
    let header_mutation = exchanged(&rendered(&[]), OURS, OURS).replacen(
        ROUTER,
        &format!("{}{ROUTER}", filter("header_mutation", "HeaderMutation", false)),
        1,
    );
    assert_found(&header_mutation, &[]);
}

#[test]
fn what_rewrites_local_replies_rewrites_ours() {
    let with = |yaml: &str, config: &str| {
        exchanged(yaml, TIMEOUT, &format!("          local_reply_config: {config}\n{TIMEOUT}"))
    };
    let replies = |config: &str| with(&rendered(&[]), config);
    let statuses = |op: &str, status: u16| {
        format!("status_code_filter: {{comparison: {{op: {op}, value: {{default_value: {status}}}}}}}")
    };
    let mapper = |filter: &str, action: &str| format!("{{mappers: [{{filter: {{{filter}}}, {action}}}]}}");
    let body = "body: {inline_string: sorry}";

    let loud = "listener edge: local_reply_config makes 200 of 503, the answer of policy pricing to refused";
    assert_found(&replies(&mapper(&statuses("GE", 500), "status_code: 200")), &[loud]);
    assert_found(&replies(&mapper(&statuses("GE", 504), "status_code: 200")), &[]);
    assert_found(&replies(&mapper(&statuses("EQ", 503), "status_code: 503")), &[]);
    let deferred =
        "listener edge: local_reply_config makes 503 of 202, the answer of policy checkout to refused";
    assert_found(&replies(&mapper(&statuses("EQ", 202), "status_code: 503")), &[deferred]);

    let body_of = |policies: &str| {
        format!(
            "listener edge: local_reply_config writes over the body that {policies} has for refused requests;"
        )
    };
    let with_200 = body_of("policies catalogue, product, reviews, recommendations, inventory");
    let all = body_of("policies checkout, catalogue, product, reviews, recommendations, inventory");
    assert_found(&replies(&mapper(&statuses("LE", 200), body)), &[&with_200]);
    assert_found(&replies("{body_format: {json_format: {message: \"%LOCAL_REPLY_BODY%\"}}}"), &[&all]);
    assert_found(&replies(&mapper(&statuses("EQ", 202), body)), &[&body_of("policy checkout")]);

    // Envoy flags what it says itself; our answers have no flag.
    for filter in ["response_flag_filter: {}".to_owned(), statuses("EQ", 404)] {
        assert_found(&replies(&mapper(&filter, &format!("status_code: 500, {body}"))), &[]);
    }
    let both =
        format!("and_filter: {{filters: [{{response_flag_filter: {{}}}}, {{{}}}]}}", statuses("GE", 200));
    assert_found(&replies(&mapper(&both, body)), &[]);
    let either =
        format!("or_filter: {{filters: [{{response_flag_filter: {{}}}}, {{{}}}]}}", statuses("EQ", 202));
    assert_found(&replies(&mapper(&either, body)), &[&body_of("policy checkout")]);

    // An entry that goes by a status has to see it.
    let pricing = r#"{"fail": {"status": 503, "retry_after": "5s"}}"#;
    let by_status = |wanted: &str| {
        let entry = format!(r#"{{"status": [{wanted}], "fail": {{"status": 503, "retry_after": "5s"}}}}"#);
        with(&exchanged(&rendered(&[]), pricing, &entry), &mapper(&statuses("EQ", 504), "status_code: 502"))
    };
    let unseen = "listener edge: local_reply_config makes 502 of Envoy's 504 before the filter sees it: an entry of \
                  policy pricing that goes by 504";
    assert_found(&by_status("504"), &[unseen]);
    assert_found(&by_status(r#""5xx""#), &[]);
    assert_found(&by_status("502, 504"), &[]);
    assert_found(&by_status("500"), &[]);
}

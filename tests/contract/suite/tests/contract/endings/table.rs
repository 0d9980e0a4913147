//! How each way a request can end shows to a filter.
//!
//! - client: the protocol, and what the client does if it does not just wait: `leaves` closes its connection (HTTP/1.1)
//!   or resets its stream (HTTP/2), `disconnects` closes the connection of an HTTP/2 stream; `mid` does so after a
//!   part of the body came.
//! - told: what makes it so: a word for the upstream, or in capitals one for the filters of the chain.
//! - answer: the status the client got; `broken` if it saw that the body did not end well, `reset` where it sees that
//!   only since Envoy 1.37 (before, Envoy resets the client's HTTP/2 stream without an error).
//! - callbacks: Q request headers, R response headers, E the end of the response body, T trailers, L log, D done, X
//!   delete. A module without `proxy_on_log` and `proxy_on_done` has the same without L and D.
//! - at headers, at end: `response.code_details` and `response.flags` in response headers, and in log, done and delete;
//!   `=` for the same. Flags are in alphabetical order, `-` for none.
//! - attempts: `upstream.request_attempt_count` in log, done and delete: how often the router tried, be it that it found no
//!   host. 0 where the request never came to the router's choice of a host.

/// Words of the table for code details that are long.
pub(super) const DETAILS: [(&str, &str); 3] = [
    ("before{", "upstream_reset_before_response_started{"),
    ("after{", "upstream_reset_after_response_started{"),
    ("REFUSED", "remote_connection_failure|delayed_connect_error:_Connection_refused"),
];

pub(super) const TABLE: &str = "
case               | client             | path           | told                   | answer     | callbacks | at headers                                 | at end                                    | attempts
ok                 | h1                 | /up            |                        | 200        | QRELDX    | via_upstream -                             | =                                         | 1
ok-chunked         | h1                 | /up            | chunked                | 200        | QRELDX    | via_upstream -                             | =                                         | 1
ok-h2              | h2                 | /h2            |                        | 200        | QRELDX    | via_upstream -                             | =                                         | 1
upstream-500       | h1                 | /up            | status=500             | 500        | QRELDX    | via_upstream -                             | =                                         | 1
no-body            | h1                 | /up            | status=204;body=       | 204        | QRLDX     | via_upstream -                             | =                                         | 1
head               | h1 HEAD            | /up            |                        | 200        | QRLDX     | via_upstream -                             | =                                         | 1
grpc               | h2 gRPC            | /h2            | grpc=14                | 200        | QRTLDX    | via_upstream -                             | =                                         | 1
grpc-trailers-only | h2 gRPC            | /h2            | grpc-trailers-only=4   | 200        | QRLDX     | via_upstream -                             | =                                         | 1
refused            | h1                 | /refused       |                        | 503        | QRELDX    | before{REFUSED} UF                         | =                                         | 1
close              | h1                 | /up            | close                  | 503        | QRELDX    | before{connection_termination} UC          | =                                         | 1
reset              | h1                 | /up            | reset                  | 503        | QRELDX    | before{connection_termination} UC          | =                                         | 1
close-h2           | h1                 | /h2            | close                  | 503        | QRELDX    | before{connection_termination} UC          | =                                         | 1
reset-h2           | h1                 | /h2            | reset                  | 503        | QRELDX    | before{remote_reset} UR                    | =                                         | 1
mid-close          | h1                 | /up            | close-mid-body         | 200 broken | QRLDX     | via_upstream -                             | after{protocol_error} UPE                 | 1
mid-reset          | h1                 | /up            | reset-mid-body         | 200 broken | QRLDX     | via_upstream -                             | after{protocol_error} UPE                 | 1
mid-close-chunked  | h1                 | /up            | chunked;close-mid-body | 200 broken | QRLDX     | via_upstream -                             | after{protocol_error} UPE                 | 1
mid-reset-chunked  | h1                 | /up            | chunked;reset-mid-body | 200 broken | QRLDX     | via_upstream -                             | after{protocol_error} UPE                 | 1
mid-close-h2       | h1                 | /h2            | close-mid-body         | 200 broken | QRLDX     | via_upstream -                             | after{connection_termination} UC          | 1
mid-reset-h2       | h1                 | /h2            | reset-mid-body         | 200 broken | QRLDX     | via_upstream -                             | after{remote_reset} UR                    | 1
mid-close-to-h2    | h2                 | /up            | close-mid-body         | 200 reset  | QRLDX     | via_upstream -                             | after{protocol_error} UPE                 | 1
mid-reset-to-h2    | h2                 | /up            | reset-mid-body         | 200 reset  | QRLDX     | via_upstream -                             | after{protocol_error} UPE                 | 1
timeout            | h1                 | /timeout       | hang                   | 504        | QRELDX    | response_timeout UT                        | =                                         | 1
timeout-h2         | h1                 | /h2-timeout    | hang                   | 504        | QRELDX    | response_timeout UT                        | =                                         | 1
timeout-mid        | h1                 | /timeout       | hang-mid-body          | 200 broken | QRLDX     | via_upstream -                             | response_timeout UT                       | 1
per-try            | h1                 | /try-once      | hang                   | 504        | QRELDX    | upstream_per_try_timeout UT                | =                                         | 1
per-try-retried    | h1                 | /try-twice     | hang                   | 504        | QRELDX    | upstream_per_try_timeout URX,UT            | =                                         | 2
idle               | h1                 | /idle          | hang                   | 504        | QRELDX    | stream_idle_timeout SI                     | =                                         | 1
idle-mid           | h1                 | /idle          | hang-mid-body          | 200 broken | QRLDX     | via_upstream -                             | stream_idle_timeout SI                    | 1
duration           | h1                 | /duration      | hang                   | 504        | QRELDX    | max_duration_timeout -                     | =                                         | 1
duration-mid       | h1                 | /duration      | hang-mid-body          | 200 broken | QRLDX     | via_upstream -                             | max_duration_timeout -                    | 1
retried-ok         | h1                 | /retry-up      | SCRIPT                 | 200        | QRELDX    | via_upstream -                             | =                                         | 3
retried-in-vain    | h1                 | /retry-up      | status=503             | 503        | QRELDX    | via_upstream URX                           | =                                         | 3
retried-refused    | h1                 | /retry-refused |                        | 503        | QRELDX    | before{REFUSED} UF,URX                     | =                                         | 2
retry-limit        | h1                 | /retry-limited | status=503             | 503        | QRELDX    | via_upstream UO                            | =                                         | 1
no-endpoint        | h1                 | /empty         |                        | 503        | QRELDX    | no_healthy_upstream UH                     | =                                         | 1
max-pending        | h1                 | /pending       |                        | 503        | QRELDX    | before{overflow} UO                        | =                                         | 1
max-requests       | h1                 | /requests      |                        | 503        | QRELDX    | before{overflow} UO                        | =                                         | 1
max-connections    | h2                 | /connections   | hang                   | 503        | QRELDX    | before{overflow} UO                        | =                                         | 1
no-cluster         | h1                 | /absent        |                        | 503        | QRLDX     | cluster_not_found NC                       | =                                         | 0
no-route           | h1                 | /nowhere       |                        | 404        | QRLDX     | route_not_found NR                         | =                                         | 0
direct             | h1                 | /direct        |                        | 503        | QRELDX    | direct_response -                          | =                                         | 0
redirect           | h1                 | /redirect      |                        | 301        | QRLDX     | direct_response -                          | =                                         | 0
rbac               | h1                 | /up            | DENY                   | 403        | QRELDX    | rbac_access_denied_matched_policy[named] - | =                                         | 0
rate-limit         | h1                 | /limited       |                        | 429        | QRELDX    | local_rate_limited RL                      | =                                         | 0
fault              | h1                 | /up            | FAULT                  | 503        | QRELDX    | fault_filter_abort FI                      | =                                         | 0
own-reply          | h1                 | /up            | REPLY                  | 503        | QRELDX    | resilience:checkout:circuit_open -         | =                                         | 0
own-replacement    | h1                 | /up            | REPLACE                | 504        | QRLDX     | via_upstream -                             | resilience:late -                         | 1
leaves-h1          | h1 leaves          | /up            | hang                   | -          | QLDX      | -                                          | downstream_remote_disconnect DC           | 1
leaves-h2          | h2 leaves          | /up            | hang                   | -          | QLDX      | -                                          | http2.remote_reset DR                     | 1
disconnects-h2     | h2 disconnects     | /up            | hang                   | -          | QLDX      | -                                          | http2.remote_reset DR                     | 1
leaves-mid-h1      | h1 leaves mid      | /up            | hang-mid-body          | -          | QRLDX     | via_upstream -                             | downstream_remote_disconnect DC           | 1
leaves-mid-h2      | h2 leaves mid      | /up            | hang-mid-body          | -          | QRLDX     | via_upstream -                             | http2.remote_reset DR                     | 1
disconnects-mid-h2 | h2 disconnects mid | /up            | hang-mid-body          | -          | QRLDX     | via_upstream -                             | http2.remote_reset DR                     | 1
";

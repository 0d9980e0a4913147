//! Input that no client should send, no Envoy should say and no neighbour should leave in shared data.

mod answers;
mod callbacks;
mod fallbacks;
mod requests;
mod state;

use resilience_module_tests::shop::policy_and;
use resilience_module_tests::{Headers, Random};

/// Values that a header may have on its way into a filter, and some that it may not.
fn hostile_values() -> Vec<Vec<u8>> {
    let mut random = Random::new(11);
    vec![
        Vec::new(),
        vec![0xff, 0xfe, 0x80],
        b"caf\xe9".to_vec(),
        vec![0],
        b"a\0b".to_vec(),
        b"\r\nx-injected: 1".to_vec(),
        vec![b'x'; 60 * 1024],
        vec![0xff; 60 * 1024],
        random.bytes(1000),
        b"%s%n%x${jndi:ldap://x}".to_vec(),
        b"-1".to_vec(),
        b"99999999999999999999".to_vec(),
        b" ".to_vec(),
        "\u{202e}\u{0}\u{1F4A5}".as_bytes().to_vec(),
    ]
}

fn with(mut headers: Headers, name: &str, value: &[u8]) -> Headers {
    headers.retain(|(other, _)| other != name.as_bytes());
    headers.push((name.as_bytes().to_vec(), value.to_vec()));
    headers
}

/// Matches by everything that a request can be asked for, so that everything is read.
fn curious() -> String {
    policy_and(r#""fallback": [{"static": {"status": 503, "text": "%POLICY% %REASON% %RETRY_AFTER% %REQUEST_ID%"}}]"#)
        .replace(
            r#"[{"route": "checkout"}]"#,
            r#"[{"metadata": {"namespace": "shop", "key": "policy", "value": "x"}},
                {"route": "checkout", "host": "*.example", "methods": ["GET"]},
                {"path": {"exact": "/one"}}, {"path": {"prefix": "/two"}}, {"host": "shop.example"}, {"any": true}]"#,
        )
}

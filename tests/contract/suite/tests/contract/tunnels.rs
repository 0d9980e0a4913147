//! Upgrades: the stream of a tunnel lives as long as the tunnel.

use crate::scene::{place, resume};
use resilience_host_contract::{Event, Peer, a_connection_to_each_worker, all_events, events, listen, probe};
use resilience_test_harness::Envoy;
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, listener, route, virtual_host,
};
use serde_json::json;

/// All but the body's, of which there are as many as there were pieces.
fn callbacks(mut events: Vec<Event>) -> Vec<String> {
    events.retain(|event| !event.name().starts_with("response_body"));
    events.iter().map(|event| event.name().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_when_it_is_closed_and_not_when_it_is_opened() {
    let (upstream, address) = listen().await;
    let filters = [probe("probe", "vm", "queue")];
    let mut manager = connection_manager(&[virtual_host("all", &[route("all", "/", "up")])], &filters);
    manager["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
    let bootstrap = bootstrap(&[listener("edge", manager)], &[cluster("up", &[address])]);
    let envoy = Envoy::builder(bootstrap).start().await;
    let edge = envoy.addr("edge").await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;

    for (case, waits, by_client) in
        [("client", false, true), ("upstream", false, false), ("waited", true, true)]
    {
        let mut client = Peer::connect(edge).await;
        let probe = if waits { "x-probe: pause\r\n" } else { "" };
        let head = format!(
            "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-case: {case}\r\n{probe}\r\n"
        );
        client.send(head.as_bytes()).await;
        let at = place(&envoy, "probe", case).await;
        if waits {
            resume(&mut workers, at, "told").await;
        }
        let mut server = Peer::accept(&upstream).await;
        server.until_text("\r\n\r\n").await;
        server
            .send(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello",
            )
            .await;
        client.until_text("\r\n\r\nhello").await;
        client.send(b"ping").await;
        server.until_text("ping").await;
        server.send(b"pong").await;
        client.until_text("pong").await;
        assert_eq!(
            callbacks(events(&envoy, "probe", case)),
            ["request_headers", "response_headers"],
            "{case}"
        );

        let (one, two) = if by_client { (client, server) } else { (server, client) };
        drop(one);
        two.until_closed().await;
        let events = all_events(&envoy, "probe", case).await;
        let last = events.last().unwrap().clone();
        let all = ["request_headers", "response_headers", "log", "done", "delete"];
        assert_eq!(callbacks(events), all, "{case}");
        assert_eq!((last.get("code"), last.flags().as_str()), ("101", if by_client { "DC" } else { "UC" }));
    }
}

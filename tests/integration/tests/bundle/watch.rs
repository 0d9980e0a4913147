//! `make watch` shows what the state says, and fits.

use super::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

const NAMES: [&str; 4] = [PORTS[0], PORTS[1], PORTS[2], STATE_PORT];
/// Where each column begins, and how wide it is.
const COLUMNS: [(&str, usize, usize); 9] = [
    ("POLICY", 0, 18),
    ("BREAKER", 19, 11),
    ("REST", 31, 4),
    ("FAILED", 36, 7),
    ("IN FLIGHT", 44, 9),
    ("WAIT", 54, 4),
    ("RETRY", 59, 5),
    ("HEALTH", 65, 10),
    ("LAST", 76, 4),
];

/// The tool, for a listener at this port. In the environment of the tests there may be what it reads.
fn watch(port: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join("tools/watch"));
    command.args(arguments).env(STATE_PORT, port).env_remove("NO_COLOR").env_remove("COLUMNS");
    command
}

/// One frame; nobody's terminal.
fn once(port: &str, arguments: &[&str], columns: Option<&str>) -> Vec<String> {
    let mut command = watch(port, &[&["--once"], arguments].concat());
    command.envs(columns.map(|columns| ("COLUMNS", columns)));
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The rows of a frame, by their policies, cut into cells.
fn cells(frame: &[String]) -> BTreeMap<String, BTreeMap<&'static str, String>> {
    let heads = frame.iter().position(|line| line.starts_with("POLICY")).expect("heads of columns");
    let end = frame.iter().position(|line| line.is_empty() || line.starts_with("overall: ")).expect("an end");
    let cut = |line: &String| {
        let cell = |(name, start, width): (&'static str, usize, usize)| {
            (name, line.chars().skip(start).take(width).collect::<String>().trim().to_owned())
        };
        COLUMNS.map(cell).into_iter().collect::<BTreeMap<_, _>>()
    };
    let names = cut(&frame[heads]);
    assert!(names.iter().all(|(name, head)| name == head), "{}", frame[heads]);
    frame[heads + 1..end].iter().map(cut).map(|cells| (cells["POLICY"].clone(), cells)).collect()
}

async fn told(state: SocketAddr, path: &str) -> Value {
    let answer = send_once(state, Protocol::Http1, Request::get(path)).await.unwrap();
    serde_json::from_slice(&answer.body).unwrap()
}

async fn break_it(edge: &Edge, path: &str, times: usize) {
    for _ in 0..times {
        let failing = Request::get(path).header("x-envoy-fault-abort-request", "503");
        send_once(edge.address, Protocol::Http1, failing).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_says_what_the_state_says_in_eighty_columns() {
    let (edge, ports) = bundle(&NAMES).await;
    let (port, state) = (&ports[3].1, edge.envoy.addr("state").await);
    break_it(&edge, "/pricing", 5).await;
    break_it(&edge, "/reviews", 2).await;
    let report = Request::get("/admin/report").header("x-envoy-fault-delay-request", "60000");
    let mut slow = Connection::open(edge.address, Protocol::Http2).await.unwrap();
    let mut reports = Vec::new();
    for _ in 0..3 {
        reports.push(slow.start(report.clone()).await.unwrap());
    }
    eventually("three reports", PATIENCE, async || {
        (told(state, "/policies/admin").await["bulkhead"]["in_flight"] == 3).then_some(())
    })
    .await;

    let frame = once(port, &[], None);
    assert!(frame.iter().all(|line| line.chars().count() <= 80 && line.is_ascii()), "{frame:#?}");
    assert!(!frame.iter().any(|line| line.contains('\x1b')), "{frame:#?}");
    let rows = cells(&frame);
    let (policies, dependencies) = (told(state, "/policies").await, told(state, "/dependencies").await);
    let mut expected = 0;
    for policy in policies["policies"].as_array().unwrap() {
        let name = policy["name"].as_str().unwrap();
        let keys = policy["keys"].as_array().map_or(&[][..], Vec::as_slice);
        let named = keys.iter().map(|key| (format!("{name}/{}", key["key"].as_str().unwrap()), key));
        let own = keys.is_empty().then(|| (name.to_owned(), policy));
        for (row, sections) in named.chain(own) {
            expected += 1;
            let shown = &rows[&row];
            let health = dependencies["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .find(|it| it["policy"] == name && it["key"] == sections["key"]);
            let word = health.map_or("-", |it| it["health"].as_str().unwrap());
            assert_eq!(shown["HEALTH"].trim_matches(['(', ')']), word, "{row}");
            let breaker = sections["circuit_breaker"]["state"].as_str().unwrap_or("-").replace('_', "-");
            assert_eq!(shown["BREAKER"].trim_matches(['(', ')']), breaker, "{row}");
            let crowd = &sections["bulkhead"];
            let crowd = (!crowd.is_null()).then(|| format!("{}/{}", crowd["in_flight"], crowd["limit"]));
            assert_eq!(shown["IN FLIGHT"], crowd.unwrap_or_else(|| "-".to_owned()), "{row}");
        }
    }
    assert_eq!(rows.len(), expected);
    let of = |row: &str, names: [&str; 3]| names.map(|name| rows[row][name].clone());
    assert_eq!(of("pricing/pricing", ["BREAKER", "HEALTH", "FAILED"]), ["(open)", "(down)", "-"]);
    assert_eq!(of("reviews", ["BREAKER", "HEALTH", "FAILED"]), ["closed", "healthy", "2/3"]);
    assert_eq!(of("admin", ["BREAKER", "IN FLIGHT", "WAIT"]), ["-", "3/10", "0"]);
    assert!(rows["pricing/pricing"]["REST"].ends_with('s') && rows["pricing/pricing"]["LAST"] != "-");
    let news = frame.iter().find(|line| line.contains("pricing/pricing: closed -> open")).unwrap();
    assert!(news.contains("consecutive_failures count=5 limit=5"), "{news}");
    let overall = dependencies["overall"].as_str().unwrap();
    assert!(frame.contains(&format!("overall: {overall}")), "{frame:#?}");

    // Some of them, in fewer columns.
    let frame = once(port, &["pr*", "admin"], Some("50"));
    assert!(frame.iter().all(|line| line.chars().count() <= 50), "{frame:#?}");
    let shown: Vec<_> = frame[2..6].iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(shown, ["product", "product-rep~", "pricing/pri~", "admin"]);
    for columns in ["20", "5", "1"] {
        let width = columns.parse().unwrap();
        let frame = once(port, &[], Some(columns));
        assert!(frame.iter().all(|line| line.chars().count() <= width), "{columns}: {frame:#?}");
    }
    assert!(once(port, &["nothing-like-it"], None).contains(&"no policy has such a name".to_owned()));
    drop(reports);
}

/// What a terminal shows at last: the last frame, without what colours it.
fn last_frame(said: &str) -> Vec<String> {
    let frame = said.rsplit("\x1b[H").next().unwrap_or_default();
    let mut text = String::new();
    let mut letters = frame.chars();
    while let Some(letter) = letters.next() {
        if letter != '\x1b' {
            text.push(letter);
        } else if letters.next() == Some('[') {
            letters.by_ref().find(char::is_ascii_alphabetic);
        }
    }
    text.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_refreshed_and_given_back() {
    let (edge, ports) = bundle(&NAMES).await;
    let terminal = Terminal::start(watch(&ports[3].1, &[]), 24, 100);
    let shows = async |what: &str, check: &dyn Fn(&[String]) -> bool| {
        eventually(what, PATIENCE, async || {
            let said = terminal.said();
            // A whole frame ends by clearing what is below it.
            let frame = last_frame(said.rsplit_once("\x1b[J").map_or("", |(whole, _)| whole));
            (!frame.is_empty() && check(&frame)).then_some(frame)
        })
        .await
    };
    let frame = shows("a first frame", &|frame| frame.contains(&"overall: unknown".to_owned())).await;
    assert!(frame.len() <= 24 && frame.iter().all(|line| line.chars().count() <= 80), "{frame:#?}");
    assert_eq!(cells(&frame)["pricing"]["BREAKER"], "(closed)");
    // In colour, on a screen of its own.
    assert!(terminal.said().starts_with("\x1b[?1049h"), "{:?}", terminal.said());
    break_it(&edge, "/product", 3).await;
    let frame = shows("the news", &|frame| frame.contains(&"overall: degraded".to_owned())).await;
    assert_eq!(cells(&frame)["product"]["BREAKER"], "open");
    assert!(terminal.said().contains("\x1b[31mopen"), "{:?}", terminal.said());

    // A screen with too little room shows what is wrong, and says what it does not show.
    terminal.resize(9, 60);
    let frame = shows("a small screen", &|frame| frame.iter().any(|line| line.starts_with("... and "))).await;
    assert!(frame.len() <= 9 && frame.iter().all(|line| line.chars().count() <= 60), "{frame:#?}");
    assert!(frame[2].starts_with("product "), "{frame:#?}");

    // The server goes away.
    drop(edge);
    let frame = shows("the end", &|frame| frame[0].contains("does not answer")).await;
    assert!(frame.iter().any(|line| line.contains("make run")), "{frame:#?}");
    let (status, said) = terminal.interrupt();
    assert!(status.success(), "{status}: {said}");
    assert!(said.ends_with("\x1b[?25h\x1b[?1049l") && !said.contains("Traceback"), "{said:?}");
}

/// Answers every request with this body.
fn pretender(body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    std::thread::spawn(move || {
        let answer = |mut stream: TcpStream| {
            let mut request = [0; 4096];
            while stream.read(&mut request).is_ok_and(|count| count > 0) {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(head.as_bytes()).is_err() {
                    return;
                }
            }
        };
        // Ends with the process; a test's connections are few.
        listener.incoming().map_while(Result::ok).for_each(answer);
    });
    port
}

#[test]
fn whoever_answers_cannot_harm_a_terminal_or_trip_the_tool() {
    for body in [
        "",
        "<html>",
        "[]",
        "{}",
        "null",
        "\"policies\"",
        "{\"policies\": 5}",
        "{\"policies\": [1]}",
        "{\"policies\": [{\"name\": 5}], \"dependencies\": [], \"overall\": \"fine\"}",
        "{\"policies\": [{\"name\": \"a\", \"circuit_breaker\": {}}], \"dependencies\": [], \"overall\": \"down\"}",
        "{\"policies\": [], \"dependencies\": [], \"overall\": \"down\", \"next\": {}}",
    ] {
        let output = watch(&pretender(body), &["--once"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.starts_with("watch: 127.0.0.1:"), "{body}: {output:?}");
        assert_eq!(said.lines().count(), 1, "{body}: {said}");
    }
    let hostile = r#"{"namespace": "n\u001b[2J", "total": 1, "overall": "down\u0007", "dependencies": [],
        "policies": [{"name": "p", "keys": [{"key": "\u001b]0;x\u0007\u202e\u4e16\u754c\r\nfake"}]}]}"#;
    let port = pretender(hostile);
    let output = watch(&port, &["--once"]).output().unwrap();
    assert!(!output.status.success(), "an overall word that does not exist: {output:?}");
    let port = pretender(Box::leak(hostile.replace(r"down\u0007", "down").into_boxed_str()));
    let frame = once(&port, &[], None);
    assert!(frame.iter().all(|line| line.bytes().all(|byte| (b' '..=b'~').contains(&byte))), "{frame:#?}");
    assert!(frame[2].starts_with("p/?]0;x????"), "{frame:#?}");
}

#[test]
fn it_says_what_it_lacks() {
    let nowhere = NOWHERE.to_string();
    for (port, words) in [
        (nowhere.as_str(), "127.0.0.1:1 does not answer"),
        ("x", "expected a port number"),
        ("70000", "expected a port number"),
    ] {
        let output = watch(port, &["--once"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{said}");
        assert_eq!((said.lines().count(), output.stdout.len()), (1, 0), "{said}");
    }
    let output = watch("1", &["--twice"]).output().unwrap();
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--once"),
        "{output:?}"
    );
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let body = r#"{"namespace": "n", "total": 1, "overall": "down", "dependencies": [], "policies": [{"name": "p"}]}"#;
    let port = pretender(body);
    let coloured = |command: Command| {
        let terminal = Terminal::start(command, 24, 80);
        while !terminal.said().contains("overall") {
            std::thread::yield_now();
        }
        let (_, said) = terminal.interrupt();
        said.contains("\x1b[31m")
    };
    assert!(coloured(watch(&port, &[])));
    let mut plain = watch(&port, &[]);
    plain.env("NO_COLOR", "1");
    assert!(!coloured(plain));
}

//! What a request can tell the probe to do.

use crate::events::{self, integer, text};
use crate::{CONTINUE, PAUSE, rewrite, vm};
use resilience_host::calls::{self, Direction, LocalResponse, Map, Metric, MetricKind, Queue, Result};

/// One command: a word and its arguments.
pub(crate) struct Command<'a> {
    word: &'a str,
    arguments: Vec<(&'a str, &'a str)>,
}

impl<'a> Command<'a> {
    fn parse(text: &'a str) -> Self {
        let mut words = text.split_whitespace();
        let word = words.next().expect("a command");
        let arguments = words.map(|word| word.split_once('=').unwrap_or((word, ""))).collect();
        Self { word, arguments }
    }

    pub(crate) fn optional(&self, key: &str) -> Option<&'a str> {
        self.arguments.iter().find(|(have, _)| *have == key).map(|(_, value)| *value)
    }

    fn get(&self, key: &str) -> &'a str {
        self.optional(key).unwrap_or_else(|| panic!("{} needs {key}", self.word))
    }

    /// The words of another command that follow those of its own, as they were written.
    fn rest(&self, own: &[&str]) -> String {
        let rest = self.arguments.iter().filter(|(key, _)| !own.contains(key));
        let words = rest.map(|(key, value)| match *value {
            "" => (*key).to_owned(),
            value => format!("{key}={value}"),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// The path of a property, its segments set off by `between`, or by what `by` says.
    fn path(&self, between: char) -> String {
        let between = self.optional("by").and_then(|by| by.chars().next()).unwrap_or(between);
        self.get("path").replace(between, "\0")
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> T {
        self.get(key).parse().unwrap_or_else(|_| panic!("{}: {key} is a number", self.word))
    }

    /// What was written as `h:name=value`.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        let header =
            |(key, value): &(&str, &str)| Some((key.strip_prefix("h:")?.to_owned(), (*value).to_owned()));
        self.arguments.iter().filter_map(header).collect()
    }
}

/// The queue of a VM.
pub(crate) fn queue_name(vm: u32) -> String {
    format!("probe.{vm}")
}

/// Runs the commands of a request, and answers it with what they said, unless one of them decided otherwise.
pub(crate) fn from_request(id: u32, commands: &str) -> u32 {
    let mut answer = Vec::new();
    for command in commands.split(';').map(Command::parse) {
        match command.word {
            // For one plugin of several in a chain.
            "only" => {
                let name = plugin(id);
                if name != command.get("name") {
                    return CONTINUE;
                }
                answer.push(name);
            }
            // The request goes on, and the answers so far go with its response.
            "go" => {
                vm::with(|vm| vm.stream(id).answer = answer);
                return CONTINUE;
            }
            // As `go`, and these commands run when response headers come.
            "on-response" => {
                vm::with(|vm| vm.stream(id).on_response = command.rest(&[]));
                return CONTINUE;
            }
            // Nothing happens until somebody else resumes or answers it.
            "pause" => return PAUSE,
            "reply" => {
                reply(&command).expect("a local reply");
                return if command.optional("continue").is_some() { CONTINUE } else { PAUSE };
            }
            _ => answer.push(run(id, &command)),
        }
    }
    let body = answer.join("\n");
    let response = LocalResponse {
        status: 200,
        details: "probe",
        headers: &[],
        body: body.as_bytes(),
        grpc_status: None,
    };
    calls::send_local_response(&response).expect("a local reply");
    PAUSE
}

fn plugin(id: u32) -> String {
    vm::with(|vm| {
        let root = vm.stream(id).root;
        vm.roots[&root].clone()
    })
}

/// Runs a command left for the response headers.
pub(crate) fn on_response(id: u32, command: &str) -> u32 {
    let command = Command::parse(command);
    if command.word == "reply" {
        // The reply comes back through response headers too: once is enough.
        vm::with(|vm| vm.stream(id).on_response.clear());
        reply(&command).expect("a local reply");
        return if command.optional("continue").is_some() { CONTINUE } else { PAUSE };
    }
    if command.word == "rewrite" {
        rewrite::headers(id, &command);
        return CONTINUE;
    }
    run(id, &command);
    CONTINUE
}

/// Runs one command where the host says `id` is the context, and answers what it said.
pub(crate) fn from_elsewhere(id: u32, command: &str) -> String {
    run(id, &Command::parse(command))
}

/// Does something to a stream: to `stream` of this VM, or to the one in whose callback this is.
fn act(id: u32, command: &Command<'_>) -> Result<()> {
    let Some(_) = command.optional("stream") else { return act_on_effective(command.word) };
    let stream = command.number("stream");
    calls::set_effective_context(stream)?;
    let done = if command.word == "look" {
        events::log(stream, "look");
        Ok(())
    } else {
        act_on_effective(command.word)
    };
    calls::set_effective_context(id)?;
    done
}

fn act_on_effective(word: &str) -> Result<()> {
    match word {
        "resume" => calls::continue_stream(Direction::Request),
        "refuse" => {
            let details = "refused_while_waiting";
            let response = LocalResponse { status: 429, details, headers: &[], body: b"", grpc_status: None };
            calls::send_local_response(&response)
        }
        _ => panic!("{word}"),
    }
}

fn run(id: u32, command: &Command<'_>) -> String {
    let shown = match command.word {
        "vm" => Ok(vm::with(|vm| vm.number).to_string()),
        "stream" => Ok(id.to_string()),
        "clock" => Ok(calls::monotonic_nanoseconds().unwrap_or_default().to_string()),
        "put" => {
            let cas = command.optional("cas").map_or(0, |_| command.number("cas"));
            said(calls::set_shared_data(command.get("key").as_bytes(), command.get("value").as_bytes(), cas))
        }
        "get" => calls::shared_data(command.get("key").as_bytes()).map(|found| match found {
            Some((value, cas)) => format!("{} {cas}", String::from_utf8_lossy(&value)),
            None => "none".to_owned(),
        }),
        // Adds one by compare-and-swap, `times` times; answers how often somebody else was first.
        "add" => Ok(add(command.get("key").as_bytes(), command.number("times")).to_string()),
        "increment" => said(metric(command).and_then(|metric| metric.increment(command.number("by")))),
        "record" => said(metric(command).and_then(|metric| metric.record(command.number("value")))),
        // Defines it twice, and adds to it by either id.
        "twice" => metric(command).and_then(|first| {
            let second = metric(command)?;
            first.increment(command.number("first"))?;
            second.increment(command.number("second"))?;
            let ids = if first == second { "same" } else { "different" };
            Ok(format!("{ids} {} {}", first.value()?, second.value()?))
        }),
        "value" => metric(command).and_then(Metric::value).map(|value| value.to_string()),
        "property" => Ok(text(calls::property(command.path('.').as_bytes()))),
        "integer" => Ok(integer(calls::property(command.path('.').as_bytes()))),
        // A value that is no text comes in hexadecimal, as `hex`.
        "set-property" => {
            let value = match command.optional("hex") {
                Some(hex) => bytes(hex),
                None => command.get("value").as_bytes().to_vec(),
            };
            said(calls::set_property(command.path(',').as_bytes(), &value))
        }
        // In hexadecimal: the bytes need not be text.
        "header" => calls::header(Map::RequestHeaders, command.get("name"))
            .map(|value| value.map_or("none".to_owned(), |value| hexadecimal(&value))),
        // All of one name, out of the whole map.
        "headers" => {
            let map = if command.optional("response").is_some() {
                Map::ResponseHeaders
            } else {
                Map::RequestHeaders
            };
            calls::header_pairs(map).map(|pairs| {
                let named = pairs.iter().filter(|(name, _)| *name == command.get("name").as_bytes());
                let values: Vec<String> = named.map(|(_, value)| hexadecimal(value)).collect();
                format!("{}:{}", values.len(), values.join(","))
            })
        }
        // The names of all, in order.
        "names" => calls::header_pairs(Map::RequestHeaders).map(|pairs| {
            let names = pairs.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned());
            names.collect::<Vec<_>>().join(",")
        }),
        "length" => calls::header(Map::RequestHeaders, command.get("name"))
            .map(|value| value.map_or(0, |value| value.len()).to_string()),
        "set-header" => said(calls::replace_header(
            Map::RequestHeaders,
            command.get("name"),
            command.get("value").as_bytes(),
        )),
        "remove-header" => said(calls::remove_header(Map::RequestHeaders, command.get("name"))),
        "resolve" => calls::resolve_queue(command.get("vm_id"), command.get("name"))
            .map(|queue| queue.map_or("none".to_owned(), |queue| queue.0.to_string())),
        "register" => calls::register_queue(command.get("name")).map(|queue| queue.0.to_string()),
        "enqueue" => said(calls::enqueue(Queue(command.number("queue")), command.get("data").as_bytes())),
        "dequeue" => calls::dequeue(Queue(command.number("queue"))).map(|entry| match entry {
            Some(entry) => String::from_utf8_lossy(&entry).into_owned(),
            None => "empty".to_owned(),
        }),
        // Commands that run elsewhere (`later.rs`), and what they say is logged as the case `as`: in the VM `to`, whose
        // queue has a name of its own;
        "tell" => said(tell(command)),
        // at the next tick of the plugin `of` in this VM;
        "on-tick" => {
            let commands = command.rest(&["of"]);
            vm::with(|vm| vm.at_tick.push((command.get("of").to_owned(), commands)));
            Ok("ok".to_owned())
        }
        // in the callback `event` at the end of this stream.
        "on-end" => {
            let commands = command.rest(&["event"]);
            vm::with(|vm| drop(vm.stream(id).at_end.insert(command.get("event").to_owned(), commands)));
            Ok("ok".to_owned())
        }
        "resume" | "refuse" | "look" => said(act(id, command)),
        "period" => said(calls::set_tick_period(command.number("milliseconds"))),
        // Of the plugin `of` in this VM.
        "ticks" => {
            Ok(vm::with(|vm| vm.ticks.get(command.get("of")).copied().unwrap_or_default()).to_string())
        }
        "effective" => said(calls::set_effective_context(command.number("stream"))),
        "trap" => panic!("told to trap"),
        word => panic!("x-probe: {word}"),
    };
    shown.unwrap_or_else(|status| format!("E{}", status.0))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u32> = hexadecimal.chars().map(|digit| digit.to_digit(16).expect("a digit")).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("a byte")).collect()
}

fn said(result: Result<()>) -> Result<String> {
    result.map(|()| "ok".to_owned())
}

fn add(key: &[u8], times: u32) -> u32 {
    let mut conflicts = 0;
    for _ in 0..times {
        loop {
            let (value, cas) =
                calls::shared_data(key).expect("shared data").expect("the suite created the key");
            let value: u32 = String::from_utf8(value).unwrap().parse().unwrap();
            if calls::set_shared_data(key, (value + 1).to_string().as_bytes(), cas).is_ok() {
                break;
            }
            conflicts += 1;
        }
    }
    conflicts
}

fn metric(command: &Command<'_>) -> Result<Metric> {
    let kind = match command.get("kind") {
        "counter" => MetricKind::Counter,
        "gauge" => MetricKind::Gauge,
        "histogram" => MetricKind::Histogram,
        kind => panic!("{kind}"),
    };
    Metric::define(kind, command.get("name"))
}

fn tell(command: &Command<'_>) -> Result<()> {
    let queue = calls::resolve_queue("", &queue_name(command.number("to")))?.expect("a queue for each VM");
    calls::enqueue(queue, command.rest(&["to"]).as_bytes())
}

/// `status`, and optionally `details`, `body`, `grpc`, and headers as `h:name=value`.
fn reply(command: &Command<'_>) -> Result<()> {
    let headers = command.headers();
    calls::send_local_response(&LocalResponse {
        status: command.number("status"),
        details: command.optional("details").unwrap_or(""),
        headers: &headers,
        body: command.optional("body").unwrap_or("").as_bytes(),
        grpc_status: command.optional("grpc").map(|_| command.number("grpc")),
    })
}

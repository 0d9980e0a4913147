//! A closed loop over a few kept-alive connections: as little of its own as can be, so that two cores are enough.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

/// How many connections share the load.
pub const CONNECTIONS: usize = 4;

/// Sends `requests` in all and checks the status of every answer.
pub fn run(address: SocketAddr, request: &str, status: u16, requests: usize) {
    run_over(CONNECTIONS, address, request, status, requests);
}

/// The same over so many connections.
pub fn run_over(connections: usize, address: SocketAddr, request: &str, status: u16, requests: usize) {
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| connection(address, request, status, requests / connections));
        }
    });
}

fn connection(address: SocketAddr, request: &str, status: u16, requests: usize) {
    let mut stream = TcpStream::connect(address).expect("Envoy listens");
    stream.set_nodelay(true).expect("a socket");
    let expected = format!("HTTP/1.1 {status} ");
    let mut buffer = Vec::new();
    for _ in 0..requests {
        stream.write_all(request.as_bytes()).expect("Envoy reads");
        let head = read_answer(&mut stream, &mut buffer);
        assert!(head.starts_with(&expected), "expected {status}, got {head:?}");
    }
}

/// Reads one answer with a content-length and returns its head.
pub fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> String {
    buffer.clear();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk).expect("Envoy answers");
        assert_ne!(read, 0, "Envoy closed the connection");
        buffer.extend_from_slice(&chunk[..read]);
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a content-length");
        if buffer.len() >= end + 4 + length {
            return String::from_utf8_lossy(&buffer[..end]).into_owned();
        }
    }
}

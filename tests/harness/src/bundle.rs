//! The project's bundle (`envoy/envoy.yaml`) as an operator has it rendered, on ports that are nobody else's.

use crate::scratch::Scratch;
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an operator may have in the environment and most tests do not want.
const OPTIONS: [&str; 3] = ["RESILIENCE_CONTROL_PORT", "RESILIENCE_STATE_PORT", "RESILIENCE_TRACES_PORT"];

/// The project's root.
///
/// # Panics
/// Never: this crate lies in it.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace").to_owned()
}

/// One of the project's scripts, to be run in its root, without what the environment says to it by chance.
#[must_use]
pub fn script(path: &str) -> Command {
    let mut command = Command::new(root().join(path));
    command.current_dir(root());
    for name in OPTIONS {
        command.env_remove(name);
    }
    command
}

/// What `tools/render` makes of the bundle for an operator who says this in the environment.
///
/// # Panics
/// With what it says if it cannot.
#[must_use]
pub fn rendered(environment: &[(&'static str, String)]) -> String {
    let scratch = Scratch::new();
    let file = scratch.file("envoy.yaml");
    let mut render = script("tools/render");
    render.arg("envoy/envoy.yaml").arg(&file).envs(environment.iter().cloned());
    let output = render.output().expect("tools/render runs");
    assert!(output.status.success(), "{output:?}");
    std::fs::read_to_string(file).unwrap()
}

/// Ports of loopback that the kernel gives to nobody until this is dropped.
///
/// They are bound and nobody listens: whoever allows addresses to be used again (SO_REUSEADDR), as Envoy does and every
/// listener of Rust's, can bind them by their numbers meanwhile. Who asks for any port, or connects, gets another.
#[derive(Debug)]
pub struct Ports {
    names: Vec<(&'static str, String)>,
    _held: Vec<Socket>,
}

impl Ports {
    /// One for each of these environment variables.
    ///
    /// # Panics
    /// If the machine has none left.
    #[must_use]
    pub fn hold(names: &[&'static str]) -> Self {
        let held: Vec<_> = names.iter().map(|_| bound()).collect();
        let number = |socket: &Socket| {
            let address = socket.local_addr().unwrap().as_socket().expect("an address of IP");
            address.port().to_string()
        };
        let names = names.iter().copied().zip(held.iter().map(number)).collect();
        Self { names, _held: held }
    }

    /// The variables with their ports.
    #[must_use]
    pub fn environment(&self) -> &[(&'static str, String)] {
        &self.names
    }
}

fn bound() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("addresses may be used again");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket
}

//! Servers of `kv`, as their user runs them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::{example, output};

/// A server that is killed when the test ends, however it ends.
pub(crate) struct Server {
    process: Child,
    /// Where it listens for nodes and for clients.
    pub(crate) nodes: String,
    pub(crate) clients: String,
}

impl Server {
    /// Interrupts it as a terminal does; how it ended.
    pub(crate) fn interrupt(mut self) -> ExitStatus {
        let sent = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.process.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server that listens at any ports.
pub(crate) fn serve(data: &Path, peers: &[String]) -> Server {
    serve_with(data, peers, &[])
}

/// The same, told these arguments as well.
pub(crate) fn serve_with(data: &Path, peers: &[String], arguments: &[&str]) -> Server {
    serve_at(data, ["127.0.0.1:0"; 2], peers, arguments)
}

/// A server that listens here for nodes and for clients.
pub(crate) fn serve_at(data: &Path, [nodes, clients]: [&str; 2], peers: &[String], arguments: &[&str]) -> Server {
    let mut command = Command::new(example("kv"));
    command.args(["serve", "--listen", nodes, "--clients", clients, "--election-timeout-ms", "300"]);
    command.args(arguments).arg("--data").arg(data).args(peers.iter().flat_map(|peer| ["--peer", peer]));
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let mut words = said.split_whitespace().filter(|word| word.contains(':')).map(str::to_owned);
    let (Some(nodes), Some(clients)) = (words.next(), words.next()) else {
        panic!("the server did not start: {said:?}");
    };
    Server { process, nodes, clients }
}

/// The id of the node of this directory, which is made with its key where it is not there yet.
pub(crate) fn id(data: &Path) -> String {
    let output = output("kv", &["id", "--data", data.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

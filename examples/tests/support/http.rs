//! A client for the tests: one request a connection.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Sends these bytes; the status of the answer, and its body. What is refused half-way may take no more bytes.
pub(crate) fn raw(address: &str, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _ = stream.write_all(request);
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if length.is_some_and(|length| body.len() >= length) {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return (status, body.to_owned());
            }
        }
        match stream.read(&mut chunk).unwrap() {
            0 => panic!("no whole answer: {text}"),
            read => answer.extend_from_slice(&chunk[..read]),
        }
    }
}

/// Sends a request with this JSON, where it is not null; the status and the JSON of the answer.
pub(crate) fn ask(address: &str, method: &str, path: &str, json: &Value, fields: &str) -> (u16, Value) {
    let body = if json.is_null() { String::new() } else { json.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    );
    let (status, body) = raw(address, request.as_bytes());
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

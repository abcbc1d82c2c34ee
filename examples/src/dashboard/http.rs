//! As much of HTTP/1.1 as a page of one's own needs: one request a connection, and a bound on all that it may cost.
//!
//! Heads are parsed by `httparse`, as hyper does it. What others can do is bounded: how many connections there are, how
//! long each may take, how long a head and a body may be. A body has a `Content-Length`.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// So many requests are answered at a time.
const CONNECTIONS_MAX: usize = 32;

/// How long a client may take to send its request, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client that is refused may go on sending, so that it reads the refusal.
const LINGER: Duration = Duration::from_millis(500);

/// The longest head and body, in bytes.
const HEAD_MAX: usize = 8 << 10;
const BODY_MAX: usize = 4 << 10;

/// So many fields a head may have.
const FIELDS_MAX: usize = 48;

/// What a client asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without what follows a `?`.
    pub(super) path: String,
    pub(super) host: String,
    pub(super) origin: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// Whether it was sent to an address, or to `localhost`, and not to a name that somebody else may have let stand for
    /// this machine (DNS rebinding).
    pub(super) fn is_to_an_address(&self) -> bool {
        let host = self.host.as_str();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        host.parse::<SocketAddr>().is_ok()
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || name.eq_ignore_ascii_case("localhost")
    }

    /// Whether the page of another site has sent it.
    pub(super) fn is_foreign(&self) -> bool {
        self.origin.as_ref().is_some_and(|origin| !origin.eq_ignore_ascii_case(&format!("http://{}", self.host)))
    }
}

/// What it is answered.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    kind: &'static str,
    body: Arc<[u8]>,
}

impl Response {
    pub(super) const fn page(body: Arc<[u8]>) -> Self {
        Self { status: 200, kind: "text/html; charset=utf-8", body }
    }

    pub(super) const fn json(status: u16, body: Arc<[u8]>) -> Self {
        Self { status, kind: "application/json", body }
    }

    /// A sentence about what was done, or why not.
    pub(super) fn sentence(status: u16, said: &str) -> Self {
        let body = serde_json::json!({ "said": said }).to_string();
        Self::json(status, body.into_bytes().into())
    }
}

/// Answers all requests, each on a thread of its own, for as long as the process lives.
pub(super) fn serve(listener: TcpListener, answer: impl Fn(&Request) -> Response + Send + Sync + 'static) {
    let (answer, busy) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // No more files can be opened, say: that passes.
                thread::sleep(LINGER);
                continue;
            };
            if busy.fetch_add(1, Relaxed) >= CONNECTIONS_MAX {
                busy.fetch_sub(1, Relaxed);
                let refusal = Response::sentence(503, "too many connections: try again");
                // Whoever does not take a few bytes at once gets none.
                let _ = stream.set_nonblocking(true).and_then(|()| write(&stream, &refusal, Instant::now() + LINGER));
                continue;
            }
            let (answer, taken) = (answer.clone(), Taken(busy.clone()));
            // Where no thread can be had the connection closes, and it counts no more.
            let _ = thread::Builder::new().spawn(move || {
                let _taken = taken;
                // A client that is gone is not missed.
                let _ = converse(&stream, &*answer);
            });
        }
    });
}

/// A place among the connections, given back however its thread ends.
struct Taken(Arc<AtomicUsize>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn converse(stream: &TcpStream, answer: &impl Fn(&Request) -> Response) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match read(stream, Instant::now() + PATIENCE)? {
        Ok(request) => {
            let answer = answer(&request);
            write(stream, &answer, Instant::now() + PATIENCE)
        }
        Err((status, why)) => {
            write(stream, &Response::sentence(status, why), Instant::now() + PATIENCE)?;
            stream.shutdown(Shutdown::Write)?;
            // What closes with bytes unread is reset, and the refusal is lost with it.
            let deadline = Instant::now() + LINGER;
            let mut rest = [0; 4096];
            while receive(stream, deadline, &mut rest)? > 0 {}
            Ok(())
        }
    }
}

/// Reads some bytes before `deadline`.
fn receive(mut stream: &TcpStream, deadline: Instant, into: &mut [u8]) -> io::Result<usize> {
    stream.set_read_timeout(Some(left(deadline)?))?;
    stream.read(into)
}

/// Writes all of it before `deadline`, however little of it is taken at a time.
fn send(mut stream: &TcpStream, deadline: Instant, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// How much time there is before `deadline`.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A request that is refused before it is understood: the status, and why.
type Refusal = (u16, &'static str);

fn read(stream: &TcpStream, deadline: Instant) -> io::Result<Result<Request, Refusal>> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 2048]);
    let (mut request, head, length) = loop {
        match parse(&bytes) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) if bytes.len() > HEAD_MAX => return Ok(Err((431, "the head of the request is too long"))),
            Ok(None) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        match receive(stream, deadline, &mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    };
    if length > BODY_MAX {
        return Ok(Err((413, "the body of the request is too long")));
    }
    while bytes.len() < head + length {
        match receive(stream, deadline, &mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
    request.body = bytes[head..head + length].to_vec();
    Ok(Ok(request))
}

/// The request, and how long its head and its body are; nothing while there is more of the head to come.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err((431, "the head of the request has too many fields")),
        Err(_) => return Err((400, "this is no HTTP request")),
    };
    let target = head.path.unwrap_or_default();
    let mut request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    let (mut hosts, mut lengths) = (0, 0);
    let mut length = 0;
    for field in head.headers {
        let value = || {
            std::str::from_utf8(field.value)
                .map(|value| value.trim().to_owned())
                .map_err(|_| (400, "a field is no text"))
        };
        match field.name.to_ascii_lowercase().as_str() {
            "host" => (hosts, request.host) = (hosts + 1, value()?),
            "origin" => request.origin = Some(value()?),
            "content-type" => request.content_type = Some(value()?),
            "content-length" => {
                lengths += 1;
                // Digits only: `parse` would take a sign as well.
                let digits = value()?;
                let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
                length = number.ok_or((400, "the Content-Length is no number"))?;
            }
            "transfer-encoding" => return Err((501, "send a Content-Length, and no Transfer-Encoding")),
            _ => {}
        }
    }
    if hosts != 1 || lengths > 1 {
        return Err((400, "a request names one Host, and one Content-Length at most"));
    }
    Ok(Some((request, len, length)))
}

fn write(stream: &TcpStream, response: &Response, deadline: Instant) -> io::Result<()> {
    let reason = match response.status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed\r\nAllow: GET, POST",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        _ => "Service Unavailable",
    };
    // The page may load nothing but its own state, and nobody may frame it to have its buttons pressed unseen.
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\r\n",
        response.status,
        response.kind,
        response.body.len(),
    );
    send(stream, deadline, head.as_bytes())?;
    send(stream, deadline, &response.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<(Request, usize, usize)>, Refusal> {
        parse(text.as_bytes())
    }

    #[test]
    fn heads_are_parsed_bit_by_bit() {
        let text = "POST /control?x=1 HTTP/1.1\r\nHOST: 127.0.0.1:80\r\nOrigin: http://127.0.0.1:80\r\nContent-Length: 2\r\n\r\n{}";
        for cut in 0..text.len() - 2 {
            assert_eq!(head(&text[..cut]), Ok(None), "{cut}");
        }
        let (request, len, length) = head(text).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str(), length), ("POST", "/control", 2));
        assert_eq!(&text[len..], "{}");
        assert!(request.is_to_an_address() && !request.is_foreign());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let fields: String = (0..FIELDS_MAX).map(|n| format!("f{n}: 1\r\n")).collect();
        for (text, status) in [
            ("\0\0\0\0 nonsense".to_owned(), 400),
            ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 501),
            (format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), 431),
        ] {
            assert_eq!(head(&text).map_err(|(status, _)| status), Err(status), "{text:?}");
        }
    }

    #[test]
    fn who_takes_an_answer_too_slowly_does_not_get_all_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        // Some is taken all the time, and all of it would take seconds.
        let taking = thread::spawn(move || {
            let mut chunk = [0; 65_536];
            while client.read(&mut chunk).is_ok_and(|read| read > 0) {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let answer = Response::page(vec![b'x'; 64 << 20].into());
        let begin = Instant::now();
        let error = write(&server, &answer, begin + Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        server.shutdown(Shutdown::Both).unwrap();
        taking.join().unwrap();
    }

    #[test]
    fn names_that_may_be_anybodys_are_told_from_addresses() {
        let to = |host: &str| Request { host: host.to_owned(), ..Request::default() }.is_to_an_address();
        for host in ["127.0.0.1", "127.0.0.1:8080", "192.168.1.7:80", "[::1]:8080", "[::1]", "localhost", "LOCALHOST:1"]
        {
            assert!(to(host), "{host}");
        }
        for host in ["", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example:80"] {
            assert!(!to(host), "{host}");
        }
        let from = |origin: &str| {
            let origin = Some(origin.to_owned());
            Request { host: "[::1]:8080".to_owned(), origin, ..Request::default() }.is_foreign()
        };
        assert!(!from("http://[::1]:8080"));
        assert!(from("http://[::1]:8081") && from("https://[::1]:8080") && from("null") && from("http://evil.example"));
    }
}

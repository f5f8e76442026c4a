//! Serves [`render`] over HTTP at `/metrics`.
//!
//! One thread answers one request after the other and leaves a client that neither sends nor reads for two seconds:
//! who dawdles, or a crowd, costs others like it some waiting, and nothing else in the process anything.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use rustix::net::{Shutdown, shutdown};

use super::render;
use crate::control::protocol::{Ask, snapshot};

/// How long a client may take for its request, and for reading the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of a request's head.
const LONGEST_HEAD: usize = 8192;

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address`; a snapshot is asked for through `asks` at every request.
    ///
    /// # Errors
    /// The address is not to be had, or no thread.
    pub fn start(address: SocketAddr, asks: Sender<Ask>) -> io::Result<Server> {
        let listener = Arc::new(TcpListener::bind(address)?);
        let accepting = Arc::clone(&listener);
        let thread = thread::Builder::new().name("metrics".into()).spawn(move || accept(&accepting, &asks))?;
        Ok(Server { listener, thread: Some(thread) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends the thread's accept() with an error.
        let stopped = shutdown(&self.listener, Shutdown::Both);
        if let (Ok(()), Some(thread)) = (stopped, self.thread.take()) {
            // A panic of the thread has been reported when it happened.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, asks: &Sender<Ask>) {
    loop {
        match listener.accept() {
            // A client that leaves early is no concern of ours.
            Ok((mut client, _)) => drop(serve(&mut client, asks)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            Err(error) => {
                tracing::warn!(%error, "metrics: a client could not be accepted");
                // Out of descriptors, as a rule: trying again at once would only burn the core.
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn serve(client: &mut TcpStream, asks: &Sender<Ask>) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    let (status, kind, body) = match read_path(client)? {
        Err(refusal) => (refusal, "text/plain", format!("{refusal}\n").into_bytes()),
        Ok(path) if path.split('?').next() == Some("/metrics") => match snapshot(asks) {
            Ok(snapshot) => match render(&snapshot) {
                Ok(text) => ("200 OK", prometheus::TEXT_FORMAT, text),
                Err(error) => ("500 Internal Server Error", "text/plain", format!("{error}\n").into_bytes()),
            },
            Err(why) => ("503 Service Unavailable", "text/plain", format!("{why}\n").into_bytes()),
        },
        Ok(_) => ("404 Not Found", "text/plain", b"metrics are at /metrics\n".to_vec()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes())?;
    client.write_all(&body)
}

/// The path that a GET asks for, or the status line of a refusal.
fn read_path(client: &mut TcpStream) -> io::Result<Result<String, &'static str>> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Err("408 Request Timeout"));
        }
        client.set_read_timeout(Some(left))?;
        let mut bytes = [0; 1024];
        let count = match client.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        };
        head.extend_from_slice(&bytes[..count]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Err(_) => return Ok(Err("400 Bad Request")),
            Ok(httparse::Status::Partial) if head.len() > LONGEST_HEAD => {
                return Ok(Err("431 Request Header Fields Too Large"));
            }
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) if request.method != Some("GET") => {
                return Ok(Err("405 Method Not Allowed"));
            }
            Ok(httparse::Status::Complete(_)) => return Ok(Ok(request.path.unwrap_or_default().to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::example;
    use crossbeam::channel::{bounded, unbounded};

    fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.write_all(request).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    fn local() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    #[test]
    fn metrics_are_served_and_all_else_refused() {
        let (asks, asked) = bounded(1);
        let server = Server::start(local(), asks).unwrap();
        let address = server.address().unwrap();
        let control = thread::spawn(move || {
            for ask in asked {
                let Ask::Snapshot(reply) = ask else { panic!("asked for {ask:?}") };
                reply.send(Box::new(example())).unwrap();
            }
        });
        let answer = exchange(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert_eq!(body.as_bytes(), render(&example()).unwrap());

        for (request, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
            (b"GET /metricsx HTTP/1.1\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"\0\0\0\0\r\n\r\n", "400"),
            (&[b"GET /metrics HTTP/1.1\r\nA: ".as_slice(), &[b'x'; LONGEST_HEAD]].concat(), "431"),
        ] {
            let answer = exchange(address, request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
        // Dropping it ends its thread, which has the last sender, and so the control thread.
        drop(server);
        control.join().unwrap();
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn without_a_control_thread_there_are_no_metrics() {
        let (asks, asked) = unbounded();
        drop(asked);
        let server = Server::start(local(), asks).unwrap();
        let answer = exchange(server.address().unwrap(), b"GET /metrics HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }

    #[test]
    fn a_silent_client_is_left_behind() {
        let (asks, asked) = bounded(1);
        let server = Server::start(local(), asks).unwrap();
        let control = thread::spawn(move || {
            let Ok(Ask::Snapshot(reply)) = asked.recv() else { panic!("no ask") };
            reply.send(Box::new(example())).unwrap();
        });
        let mut silent = TcpStream::connect(server.address().unwrap()).unwrap();
        silent.write_all(b"GET /met").unwrap();
        let answer = exchange(server.address().unwrap(), b"GET /metrics HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        control.join().unwrap();
    }
}

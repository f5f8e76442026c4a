//! An HTTP GET of which only the status counts.
//!
//! A client of our own, because there is little to it: httparse reads the answer's head, and what an HTTP library
//! would add (TLS, redirects, pools, name look-ups that can not be interrupted) a health check has no use for.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::PollFlags;

use super::connect::{self, Target};
use super::stop::{Cut, Stop};
use crate::config::checked::HttpUrl;

/// The most bytes that are read for a status, interim answers and all.
const HEAD_MAX: usize = 16 << 10;

/// The most fields of an interim answer's head.
const FIELDS_MAX: usize = 64;

/// Whether the URL answers with a status of 200 to 399. Redirects are answers, and not followed.
pub(super) fn get(url: &HttpUrl, target: Target, deadline: Instant, stop: &Stop) -> Result<(), Cut> {
    let mut stream = connect::stream(target, deadline, stop)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: baton/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        url.target(),
        url.authority(),
        env!("CARGO_PKG_VERSION"),
    );
    write(&mut stream, request.as_bytes(), deadline, stop)?;
    match status(&mut stream, deadline, stop)? {
        200..=399 => Ok(()),
        status => Err(Cut::Failed(format!("status {status}"))),
    }
}

fn write(stream: &mut TcpStream, mut bytes: &[u8], deadline: Instant, stop: &Stop) -> Result<(), Cut> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(stream, PollFlags::OUT, deadline, stop)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Cut::Failed(format!("can not send the request: {error}"))),
        }
    }
    Ok(())
}

/// The status of the final answer.
fn status(stream: &mut TcpStream, deadline: Instant, stop: &Stop) -> Result<u16, Cut> {
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    let mut total = 0;
    while total <= HEAD_MAX {
        match stream.read(&mut chunk) {
            Ok(0) => return Err(Cut::failed("the connection ended before a status")),
            Ok(length) => {
                head.extend_from_slice(&chunk[..length]);
                total += length;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(stream, PollFlags::IN, deadline, stop)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Cut::Failed(format!("can not read the answer: {error}"))),
        }
        if let Some(status) = parse(&mut head).map_err(Cut::failed)? {
            return Ok(status);
        }
    }
    Err(Cut::Failed(format!("no status in {HEAD_MAX} bytes")))
}

/// The status, once its line is there. Interim answers (1xx: RFC 9110, section 15.2) are taken off the front.
fn parse(head: &mut Vec<u8>) -> Result<Option<u16>, &'static str> {
    use httparse::Error;
    while head.contains(&b'\n') {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut answer = httparse::Response::new(&mut fields);
        let parsed = answer.parse(head);
        match (answer.code, parsed) {
            (None, Ok(_)) => return Ok(None),
            (None | Some(..=99), _) | (_, Err(Error::Status | Error::Token | Error::Version | Error::NewLine)) => {
                return Err("the answer is not HTTP");
            }
            // Its fields do not matter, nor whether all of them are there.
            (Some(status @ (101 | 200..)), _) => return Ok(Some(status)),
            (Some(_), Ok(httparse::Status::Partial)) => return Ok(None),
            (Some(_), Ok(httparse::Status::Complete(length))) => drop(head.drain(..length)),
            (Some(_), Err(_)) => return Err("an interim answer is not HTTP"),
        }
    }
    Ok(None)
}

fn wait(stream: &TcpStream, what: PollFlags, deadline: Instant, stop: &Stop) -> Result<(), Cut> {
    match stop.wait([(stream.as_fd(), what)], deadline)? {
        Some(_) => Ok(()),
        None => Err(Cut::late("no answer in time")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    fn status(head: &str) -> Result<Option<u16>, &'static str> {
        parse(&mut head.as_bytes().to_vec())
    }

    #[test]
    fn the_status_is_known_as_soon_as_its_line_is_there() {
        assert_eq!(status(""), Ok(None));
        assert_eq!(status("HTTP/1.1 20"), Ok(None));
        assert_eq!(status("HTTP/1.1 204 No"), Ok(None));
        assert_eq!(status("HTTP/1.1 204\r\n"), Ok(Some(204)));
        assert_eq!(status("HTTP/1.0 503 Down\r\nBad Field"), Ok(Some(503)));
        let many = "A: b\r\n".repeat(100);
        assert_eq!(status(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")), Ok(Some(200)));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        assert_eq!(status("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n"), Ok(None));
        assert_eq!(status("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), Ok(None));
        let two = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n";
        assert_eq!(status(two), Ok(Some(200)));
    }

    #[test]
    fn what_is_not_http_is_refused() {
        let heads = ["SSH-2.0-OpenSSH\r\n", "HTTP/2.0 200 OK\r\n", "GET / HTTP/1.1\r\n", "HTTP/1.1 099 Low\r\n"];
        for head in heads.into_iter().chain(["HTTP/1.1 2000 OK\r\n", "HTTP/1.1 103 Early\r\nBad Field\r\n\r\n"]) {
            assert!(status(head).is_err(), "{head}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_has_an_outcome(tail in "[ -~\r\n]{0,60}", bytes: Vec<u8>) {
            let _ = parse(&mut bytes.clone());
            let _ = parse(&mut format!("HTTP/1.1 1{tail}").into_bytes());
        }
    }
}

//! HTTP/1.1 by hand: one request a connection, answers whole or as server-sent events.
//!
//! By hand, because tests want to see what is on the wire: whether `[DONE]` came, and whether an
//! answer was cut.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Where to ask, and how patient to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) timeout: Duration,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// A stream of events under way.
#[derive(Debug)]
pub(crate) struct Events {
    wire: BufReader<TcpStream>,
    chunk: Vec<u8>,
}

/// A stream of events, read to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streamed {
    pub(crate) text: String,
    pub(crate) pieces: usize,
    pub(crate) finish: Option<String>,
    pub(crate) usage: Option<Value>,
    /// Message of an error event.
    pub(crate) error: Option<String>,
    /// `[DONE]` came.
    pub(crate) done: bool,
    /// Something came after the error or after `[DONE]`.
    pub(crate) words_after_end: bool,
    /// The connection broke before the end of the body.
    pub(crate) cut: Option<String>,
    /// When the end was read.
    pub(crate) ended: Option<Instant>,
}

impl Client {
    pub(crate) fn get(&self, path: &str) -> io::Result<Reply> {
        reply(&mut self.send("GET", path, b"")?)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> io::Result<Reply> {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub(crate) fn post_bytes(&self, path: &str, body: &[u8]) -> io::Result<Reply> {
        reply(&mut self.send("POST", path, body)?)
    }

    /// Asks for a stream. An answer that is none (an error) is the outer error's text.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> io::Result<Result<Events, Reply>> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let mut wire = self.send("POST", path, body.to_string().as_bytes())?;
        let (status, headers) = head(&mut wire)?;
        if header(&headers, "content-type") == Some("text/event-stream") {
            return Ok(Ok(Events { wire, chunk: Vec::new() }));
        }
        let body = body_of(&mut wire, &headers)?;
        Ok(Err(Reply { status, headers, body }))
    }

    /// Asks for a stream and reads it to its end.
    pub(crate) fn streamed(&self, path: &str, body: &Value) -> io::Result<Result<Streamed, Reply>> {
        Ok(self.stream(path, body)?.map(|mut events| events.rest()))
    }

    fn send(&self, method: &str, path: &str, body: &[u8]) -> io::Result<BufReader<TcpStream>> {
        let mut socket = TcpStream::connect_timeout(&self.address, self.timeout)?;
        socket.set_read_timeout(Some(self.timeout))?;
        socket.set_nodelay(true)?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        socket.write_all(&[head.as_bytes(), body].concat())?;
        Ok(BufReader::new(socket))
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The text of an answer, completion or chat.
    pub(crate) fn text(&self) -> String {
        let choice = &self.json()["choices"][0];
        let text = choice["text"].as_str().or_else(|| choice["message"]["content"].as_str());
        text.unwrap_or_else(|| panic!("no text: {self:?}")).to_owned()
    }

    /// Message and field of an error.
    pub(crate) fn error(&self) -> (String, Option<String>) {
        let error = &self.json()["error"];
        let message = error["message"].as_str().unwrap_or_else(|| panic!("no error: {self:?}"));
        (message.to_owned(), error["param"].as_str().map(str::to_owned))
    }
}

impl Events {
    /// Data of the next event; none at the proper end of the body.
    pub(crate) fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.chunk.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.chunk.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event).trim_end().to_owned();
                match event.strip_prefix("data: ") {
                    Some(data) => return Ok(Some(data.to_owned())),
                    None => continue, // a comment
                }
            }
            let more = chunk(&mut self.wire)?;
            if more.is_empty() {
                return Ok(None);
            }
            self.chunk.extend(more);
        }
    }

    /// Reads until so many pieces of text came.
    pub(crate) fn pieces(&mut self, count: usize) -> Streamed {
        let mut all = Streamed::default();
        while all.pieces < count && self.take_into(&mut all) {}
        all
    }

    /// Reads to the end.
    pub(crate) fn rest(&mut self) -> Streamed {
        let mut all = Streamed::default();
        while self.take_into(&mut all) {}
        all
    }

    /// Takes one event; false at the end.
    fn take_into(&mut self, all: &mut Streamed) -> bool {
        match self.next() {
            Ok(Some(data)) => all.take(&data),
            Ok(None) => return false,
            Err(error) => {
                all.cut = Some(error.to_string());
                return false;
            }
        }
        true
    }
}

impl Streamed {
    fn take(&mut self, data: &str) {
        self.words_after_end |= self.done || self.error.is_some();
        if data == "[DONE]" {
            self.done = true;
            self.ended = Some(Instant::now());
            return;
        }
        let event: Value =
            serde_json::from_str(data).unwrap_or_else(|_| panic!("not JSON: {data}"));
        if let Some(message) = event["error"]["message"].as_str() {
            self.error = Some(message.to_owned());
            self.ended = Some(Instant::now());
        }
        if event["usage"].is_object() {
            self.usage = Some(event["usage"].clone());
        }
        let choice = &event["choices"][0];
        let text = choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str());
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.text.push_str(text);
            self.pieces += 1;
        }
        if let Some(finish) = choice["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
    }

    /// Ended as it should: a finish reason and `[DONE]`, nothing after it.
    pub(crate) fn is_whole(&self) -> bool {
        self.done && self.finish.is_some() && self.error.is_none() && !self.words_after_end
    }
}

fn reply(wire: &mut BufReader<TcpStream>) -> io::Result<Reply> {
    let (status, headers) = head(wire)?;
    let body = body_of(wire, &headers)?;
    Ok(Reply { status, headers, body })
}

fn head(wire: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let status = line(wire)?;
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| io::Error::other(format!("no status line: {status:?}")))?;
    let mut headers = Vec::new();
    loop {
        let header = line(wire)?;
        match header.split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None => return Ok((code, headers)),
        }
    }
}

fn body_of(wire: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<String> {
    let mut body = Vec::new();
    match header(headers, "content-length").map(str::parse) {
        Some(Ok(bytes)) => {
            body.resize(bytes, 0);
            wire.read_exact(&mut body)?;
        }
        _ => loop {
            let more = chunk(wire)?;
            if more.is_empty() {
                break;
            }
            body.extend(more);
        },
    }
    String::from_utf8(body).map_err(io::Error::other)
}

/// The next chunk of a chunked body; empty at its end. A body that just stops is an error.
fn chunk(wire: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let bytes = line(wire)?;
    let bytes = usize::from_str_radix(&bytes, 16);
    let bytes = bytes.map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let mut chunk = vec![0; bytes + 2];
    wire.read_exact(&mut chunk)?;
    chunk.truncate(bytes);
    Ok(chunk)
}

fn line(wire: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    wire.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

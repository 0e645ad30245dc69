//! A hub of one repository, for tests: its API, its files, a storage of another origin that large
//! files redirect to, and faults on demand. Every request is noted.
//!
//! A thread a connection, one request a connection. Deliberately absent: anything that decides
//! what a client should do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

pub(crate) const REPOSITORY: &str = "some-org/tiny.model";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with one answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status line and these headers (each with its line end) in place of the answer.
    Answer(&'static str, String),
    /// The connection ends after so many bytes of the body.
    BreakAfter(usize),
    /// The first byte of the body is another.
    WrongByte,
    /// This header line in place of the one of the same name.
    Header(&'static str, String),
    /// Ranges are ignored: 200 and the whole file.
    Whole,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `GET /some-org/...`.
    pub(crate) line: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    /// By the storage, not by the hub.
    pub(crate) by_storage: bool,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    storage: String,
    /// Of the next answers to requests whose line and range contain the text.
    faults: Mutex<Vec<(String, Fault)>>,
    seen: Mutex<Vec<Seen>>,
}

/// The hub, until the test ends.
pub(crate) struct HubServer {
    pub(crate) endpoint: String,
    state: Arc<State>,
}

impl HubServer {
    /// Serves these files as the revision `main`.
    pub(crate) fn of(files: BTreeMap<String, Vec<u8>>) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (hub, storage) = (bind(), bind());
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (faults, seen) = (Mutex::default(), Mutex::default());
        let state = Arc::new(State { files, storage: url(&storage), faults, seen });
        let endpoint = url(&hub);
        for (listener, by_storage) in [(hub, false), (storage, true)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that leaves is its own affair.
                    std::thread::spawn(move || drop(state.answer(stream, by_storage)));
                }
            });
        }
        Self { endpoint, state }
    }

    /// Serves the files of a folder, and some that nobody should ask for.
    pub(crate) fn of_folder(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
        for name in ["pytorch_model.bin", "original/consolidated.00.pth", "metal/model.bin"] {
            files.insert(name.into(), b"not to be fetched".to_vec());
        }
        Self::of(files)
    }

    /// The next answer to a request whose line and range contain `part` goes wrong.
    pub(crate) fn fault(&self, part: &str, fault: Fault) {
        self.state.faults.lock().unwrap().push((part.to_owned(), fault));
    }

    /// Nothing goes wrong any more.
    pub(crate) fn mend(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// Requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }
}

/// Name of a file's blob: sha256 of large files, git's id of others.
pub(crate) fn etag(name: &str, bytes: &[u8]) -> String {
    let mut context = if is_large(name) {
        Context::new(&SHA256)
    } else {
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {}\0", bytes.len()).as_bytes());
        context
    };
    context.update(bytes);
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// An answer before its faults.
struct Answer {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
}

fn not_found(code: &str) -> Answer {
    let headers = format!("X-Error-Code: {code}\r\n");
    Answer { status: "404 Not Found", headers, body: b"no".to_vec() }
}

impl State {
    fn answer(&self, stream: TcpStream, by_storage: bool) -> std::io::Result<()> {
        let Some(seen) = read_request(&stream, by_storage)? else { return Ok(()) };
        let mut answer = self.proper(&seen);
        self.seen.lock().unwrap().push(seen.clone());
        let mut cut = answer.body.len();
        for fault in self.take_faults(&seen) {
            match fault {
                Fault::Answer(status, headers) => answer = Answer { status, headers, body: vec![] },
                Fault::BreakAfter(bytes) => cut = bytes,
                Fault::WrongByte => answer.body[0] ^= 1,
                Fault::Header(name, line) => {
                    let keep = |kept: &&str| !kept.starts_with(name);
                    answer.headers = answer.headers.split_inclusive('\n').filter(keep).collect();
                    answer.headers += &line;
                }
                Fault::Whole => {
                    let whole = Seen { range: None, ..seen.clone() };
                    answer = self.proper(&whole);
                    cut = answer.body.len();
                }
            }
        }
        if !answer.headers.contains("Content-Length") {
            write!(answer.headers, "Content-Length: {}\r\n", answer.body.len()).unwrap();
        }
        let (status, headers) = (answer.status, answer.headers);
        let mut stream = &stream;
        write!(stream, "HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n")?;
        if !seen.line.starts_with("HEAD") {
            stream.write_all(&answer.body[..cut.min(answer.body.len())])?;
        }
        Ok(())
    }

    fn take_faults(&self, seen: &Seen) -> Vec<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let text = format!("{} {}", seen.line, seen.range.as_deref().unwrap_or_default());
        let place = faults.iter().position(|(part, _)| text.contains(part.as_str()));
        place.map(|place| faults.remove(place).1).into_iter().collect()
    }

    fn proper(&self, seen: &Seen) -> Answer {
        let path = seen.line.split(' ').nth(1).unwrap_or_default();
        if seen.by_storage {
            return self.bytes(path.trim_start_matches('/'), seen);
        }
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{REPOSITORY}/revision/")) {
            if revision != "main" && revision != COMMIT {
                return not_found("RevisionNotFound");
            }
            let file = |name: &String| serde_json::json!({ "rfilename": name });
            let siblings: Vec<_> = self.files.keys().map(file).collect();
            let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings });
            let body = body.to_string().into_bytes();
            return Answer { status: "200 OK", headers: String::new(), body };
        }
        let file = path.strip_prefix(&format!("/{REPOSITORY}/resolve/{COMMIT}/"));
        let Some((name, bytes)) = file.and_then(|name| self.files.get_key_value(name)) else {
            return not_found("RepoNotFound");
        };
        let etag = etag(name, bytes);
        if is_large(name) {
            let (storage, length) = (&self.storage, bytes.len());
            let headers = format!(
                "Location: {storage}/{name}\r\nX-Linked-Etag: \"{etag}\"\r\n\
                 X-Linked-Size: {length}\r\nX-Repo-Commit: {COMMIT}\r\n"
            );
            return Answer { status: "302 Found", headers, body: vec![] };
        }
        let mut answer = self.bytes(name, seen);
        write!(answer.headers, "ETag: \"{etag}\"\r\n").unwrap();
        answer
    }

    /// A file, or the range of it that was asked for.
    fn bytes(&self, name: &str, seen: &Seen) -> Answer {
        let Some(bytes) = self.files.get(name) else { return not_found("EntryNotFound") };
        let Some(range) = &seen.range else {
            return Answer { status: "200 OK", headers: String::new(), body: bytes.clone() };
        };
        let (start, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (start, last): (usize, usize) = (start.parse().unwrap(), last.parse().unwrap());
        let headers = format!("Content-Range: bytes {start}-{last}/{}\r\n", bytes.len());
        Answer { status: "206 Partial Content", headers, body: bytes[start..=last].to_vec() }
    }
}

/// The line and the headers that matter; `None` if the client left.
fn read_request(stream: &TcpStream, by_storage: bool) -> std::io::Result<Option<Seen>> {
    let mut lines = BufReader::new(stream).lines();
    let Some(line) = lines.next().transpose()? else { return Ok(None) };
    let mut seen = Seen { line, range: None, authorization: None, by_storage };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = Some(value.to_owned()),
            "authorization" => seen.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(Some(seen))
}

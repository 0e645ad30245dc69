//! A child's stderr, line by line, and waiting for a line.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Lines so far.
#[derive(Debug)]
pub(crate) struct Log {
    shared: Arc<(Mutex<Lines>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Reads `source` to its end on a thread of its own.
    pub(crate) fn of(source: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Lines::default()), Condvar::new()));
        let writer = Arc::clone(&shared);
        let reader = std::thread::spawn(move || {
            let (lines, changed) = &*writer;
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                lines.lock().unwrap().lines.push(line);
                changed.notify_all();
            }
            lines.lock().unwrap().ended = true;
            changed.notify_all();
        });
        Self { shared, reader: Some(reader) }
    }

    /// The first line, old or new, that contains `text`; none if the child closes its stderr or
    /// `limit` passes before.
    pub(crate) fn wait_for(&self, text: &str, limit: Duration) -> Option<String> {
        let (lines, changed) = &*self.shared;
        let find = |lines: &Lines| lines.lines.iter().find(|line| line.contains(text)).cloned();
        let missing = |lines: &mut Lines| find(lines).is_none() && !lines.ended;
        let (lines, _) = changed.wait_timeout_while(lines.lock().unwrap(), limit, missing).unwrap();
        find(&lines)
    }

    /// All lines so far.
    pub(crate) fn text(&self) -> String {
        self.shared.0.lock().unwrap().lines.join("\n")
    }

    /// Waits for the end of stderr, which comes with the end of the last process that holds it.
    pub(crate) fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.text()
    }
}

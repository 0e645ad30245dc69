//! What a command tells the person who waits for it: a progress bar, phases, a line when ready.
//!
//! Everything goes to stderr, so that stdout holds answers alone. Prompts and answers are never
//! told.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use binfer_console as console;
use binfer_shard::hub::DownloadEvent;
use indicatif::{HumanBytes, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::fleet::LoadProgress;

/// The template of the progress bar, behind the word for what is being done.
const BAR: &str = "{bar:24} {bytes}/{total_bytes}{speed}";
/// When a speed is shown. Before that it is the speed of the first buffers, which means nothing.
const SPEED_AFTER: Duration = Duration::from_millis(500);

/// How much to say on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors alone.
    Quiet,
    /// Also progress, and a line when ready.
    Normal,
    /// Also each phase of the start.
    Verbose,
}

impl Verbosity {
    /// What `--quiet` and `--verbose` ask for.
    pub fn of(quiet: bool, verbose: bool) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Verbose,
            (false, false) => Self::Normal,
        }
    }
}

/// Reports on one start of the server, or on another task that takes time.
#[derive(Clone, Debug)]
pub struct Report {
    verbosity: Verbosity,
    start: Instant,
    shows_bar: bool,
}

impl Report {
    /// A report whose time begins now.
    pub fn new(verbosity: Verbosity) -> Self {
        let shows_bar = verbosity != Verbosity::Quiet && std::io::stderr().is_terminal();
        Self { verbosity, start: Instant::now(), shows_bar }
    }

    /// A phase of the start is over. Shown with `--verbose`.
    pub fn phase(&self, what: &str) {
        if self.verbosity == Verbosity::Verbose {
            let elapsed = self.start.elapsed().as_secs_f64() * 1e3;
            console::message(format_args!("[{elapsed:7.1} ms] {what}"));
        }
    }

    /// Shows how many bytes of the weights are loaded.
    pub fn loading(&self, at: LoadProgress) {
        self.advance("loading", (at.bytes_done, at.bytes_total));
    }

    /// Shows how many bytes of a checkpoint are cut.
    pub fn sharding(&self, done: u64, total: u64) {
        self.advance("sharding", (done, total));
    }

    /// Shows how many bytes of the weights are verified.
    pub fn verifying(&self, done: u64, total: u64) {
        let template = "verifying {bar:32} {bytes}/{total_bytes} {bytes_per_sec}";
        self.advance(template, (done, total));
    }

    /// Shows how many bytes of a download are here.
    pub fn downloading(&self, event: DownloadEvent) {
        match event {
            DownloadEvent::Waiting => {
                self.line("another process is downloading this model: waiting for it")
            }
            DownloadEvent::Found { bytes_done, bytes_total } => {
                self.advance("downloading", (bytes_done, bytes_total));
                self.restart_speed();
            }
            DownloadEvent::Progress { bytes_done, bytes_total } => {
                self.advance("downloading", (bytes_done, bytes_total));
            }
        }
    }

    /// Moves the bar, which is shown from a task's first progress to [`Self::loaded`]. The total
    /// may grow, since ranks say one after the other what they will load.
    fn advance(&self, what: &str, (done, total): (u64, u64)) {
        if !self.shows_bar {
            return;
        }
        let bar = console::bar();
        if !bar.is_hidden() {
            bar.set_length(total);
            bar.set_position(done);
            return;
        }
        if let Ok(style) = ProgressStyle::with_template(&format!("{what} {BAR}")) {
            bar.set_style(style.with_key("speed", write_speed));
        }
        bar.reset();
        bar.set_length(total);
        bar.set_position(done);
        bar.set_draw_target(ProgressDrawTarget::stderr());
        self.restart_speed();
    }

    /// Measures the speed from now on: what was there before says nothing of how fast the rest
    /// comes.
    fn restart_speed(&self) {
        console::bar().tick();
        console::bar().reset_eta();
    }

    /// Removes the bar: the task is over, with or without success.
    pub fn loaded(&self) {
        console::bar().finish_and_clear();
        console::bar().set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Tells the operator a line, unless quiet.
    pub fn line(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            console::message(text);
        }
    }

    /// Seconds since the start.
    pub fn elapsed_s(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

/// Writes ", 1.2 GiB/s, 4s left", once there is enough to measure.
fn write_speed(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    let speed = state.per_sec();
    if state.elapsed() >= SPEED_AFTER && speed >= 1.0 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
        let speed = HumanBytes(speed as u64);
        // Writing to a string cannot fail.
        let _ = write!(out, ", {speed}/s, {:#} left", indicatif::HumanDuration(state.eta()));
    }
}

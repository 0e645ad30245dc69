//! What a start, or sharding, tells the person who waits for it: a progress bar, phases, a line
//! when ready.
//!
//! Goes to stderr, so that stdout holds answers alone. Prompts and answers never come here.

use std::io::IsTerminal;
use std::time::Instant;

use binfer_shard::hub::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::fleet::LoadProgress;

/// What the bar of a download shows.
const DOWNLOADING: &str = "downloading {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";

/// How much to say on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors.
    Quiet,
    /// Progress, and a line when ready.
    Normal,
    /// Each phase of the start.
    Verbose,
}

impl Verbosity {
    /// What `--quiet` and `--verbose` leave to say.
    pub fn of(quiet: bool, verbose: bool) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Verbose,
            (false, false) => Self::Normal,
        }
    }
}

/// Tells about one start, or about something else that takes time.
#[derive(Clone, Debug)]
pub struct Report {
    verbosity: Verbosity,
    start: Instant,
    /// Drawn from the first progress of something to its end, and never otherwise.
    bar: ProgressBar,
}

impl Report {
    /// The start begins now.
    pub fn new(verbosity: Verbosity) -> Self {
        Self { verbosity, start: Instant::now(), bar: ProgressBar::hidden() }
    }

    /// With `--verbose`: a phase of the start is over.
    pub fn phase(&self, what: &str) {
        if self.verbosity == Verbosity::Verbose {
            let elapsed = self.start.elapsed().as_secs_f64() * 1e3;
            self.bar.suspend(|| eprintln!("[{elapsed:7.1} ms] {what}"));
        }
    }

    /// How far loading is.
    pub fn loading(&self, at: LoadProgress) {
        let template = "loading {bar:32} {bytes}/{total_bytes} {bytes_per_sec}";
        self.advance(template, (at.bytes_done, at.bytes_total));
    }

    /// How far the cutting of a checkpoint is.
    pub fn sharding(&self, done: u64, total: u64) {
        let template = "sharding {bar:32} {bytes}/{total_bytes} {bytes_per_sec}";
        self.advance(template, (done, total));
    }

    /// How far a download is.
    pub fn downloading(&self, event: Event) {
        match event {
            Event::Waiting => {
                self.line("another process is downloading this model: waiting for it")
            }
            Event::Found { bytes_done, bytes_total } => {
                self.advance(DOWNLOADING, (bytes_done, bytes_total));
                // What was there says nothing of how fast the rest comes.
                self.bar.tick();
                self.bar.reset_eta();
            }
            Event::Progress { bytes_done, bytes_total } => {
                self.advance(DOWNLOADING, (bytes_done, bytes_total));
            }
        }
    }

    fn advance(&self, template: &str, (done, total): (u64, u64)) {
        if self.bar.is_finished() || self.bar.length() != Some(total) {
            self.begin(template, total);
        }
        self.bar.set_position(done);
    }

    fn begin(&self, template: &str, total: u64) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.reset();
        self.bar.set_length(total);
        if self.verbosity != Verbosity::Quiet && std::io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Whatever it was is over, well or not.
    pub fn loaded(&self) {
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Unless quiet: a line for the operator.
    pub fn line(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }

    /// Since the start.
    pub fn elapsed_s(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

//! What a start, or sharding, tells the person who waits for it: a progress bar, phases, a line
//! when ready.
//!
//! Goes to stderr, so that stdout holds answers alone. Prompts and answers never come here.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use binfer_console as console;
use binfer_shard::hub::DownloadEvent;
use indicatif::{HumanBytes, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::fleet::LoadProgress;

/// What is shown behind the word for what is being done.
const BAR: &str = "{bar:24} {bytes}/{total_bytes}{speed}";
/// Until then a speed is that of the first buffers, and means nothing.
const SPEED_AFTER: Duration = Duration::from_millis(500);

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
    draws: bool,
}

impl Report {
    /// The start begins now.
    pub fn new(verbosity: Verbosity) -> Self {
        let draws = verbosity != Verbosity::Quiet && std::io::stderr().is_terminal();
        Self { verbosity, start: Instant::now(), draws }
    }

    /// With `--verbose`: a phase of the start is over.
    pub fn phase(&self, what: &str) {
        if self.verbosity == Verbosity::Verbose {
            let elapsed = self.start.elapsed().as_secs_f64() * 1e3;
            console::message(format_args!("[{elapsed:7.1} ms] {what}"));
        }
    }

    /// How far loading is.
    pub fn loading(&self, at: LoadProgress) {
        self.advance("loading", (at.bytes_done, at.bytes_total));
    }

    /// How far the cutting of a checkpoint is.
    pub fn sharding(&self, done: u64, total: u64) {
        self.advance("sharding", (done, total));
    }

    /// How far reading all weights is.
    pub fn verifying(&self, done: u64, total: u64) {
        let template = "verifying {bar:32} {bytes}/{total_bytes} {bytes_per_sec}";
        self.advance(template, (done, total));
    }

    /// How far a download is.
    pub fn downloading(&self, event: DownloadEvent) {
        match event {
            DownloadEvent::Waiting => {
                self.line("another process is downloading this model: waiting for it")
            }
            DownloadEvent::Found { bytes_done, bytes_total } => {
                self.advance("downloading", (bytes_done, bytes_total));
                self.forget_speed();
            }
            DownloadEvent::Progress { bytes_done, bytes_total } => {
                self.advance("downloading", (bytes_done, bytes_total));
            }
        }
    }

    /// Moves the bar, which is drawn from the first progress of something to [`Self::loaded`]. The
    /// total may grow: ranks say one after the other what they are going to load.
    fn advance(&self, what: &str, (done, total): (u64, u64)) {
        if !self.draws {
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
        self.forget_speed();
    }

    /// What was there at the beginning says nothing of how fast the rest comes.
    fn forget_speed(&self) {
        console::bar().tick();
        console::bar().reset_eta();
    }

    /// Whatever it was is over, well or not.
    pub fn loaded(&self) {
        console::bar().finish_and_clear();
        console::bar().set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Unless quiet: a line for the operator.
    pub fn line(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            console::message(text);
        }
    }

    /// Since the start.
    pub fn elapsed_s(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

/// ", 1.2 GiB/s, 4s left", once there is something to go by.
fn write_speed(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    let speed = state.per_sec();
    if state.elapsed() >= SPEED_AFTER && speed >= 1.0 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
        let speed = HumanBytes(speed as u64);
        // Writing to a string cannot fail.
        let _ = write!(out, ", {speed}/s, {:#} left", indicatif::HumanDuration(state.eta()));
    }
}

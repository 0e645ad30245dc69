//! What a start tells the person who waits for it: a progress bar, phases, a line when ready.
//!
//! Goes to stderr, so that stdout holds answers alone. Prompts and answers never come here.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::fleet::LoadProgress;
use crate::options::Verbosity;

/// Tells about one start.
#[derive(Clone, Debug)]
pub struct Report {
    verbosity: Verbosity,
    start: Instant,
    bar: ProgressBar,
}

impl Report {
    /// The start begins now.
    pub fn new(verbosity: Verbosity) -> Self {
        let bar = ProgressBar::hidden();
        if verbosity != Verbosity::Quiet && std::io::stderr().is_terminal() {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        let template = "loading {bar:32} {bytes}/{total_bytes} {bytes_per_sec}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { verbosity, start: Instant::now(), bar }
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
        self.bar.set_length(at.bytes_total);
        self.bar.set_position(at.bytes_done);
    }

    /// Loading is over, well or not.
    pub fn loaded(&self) {
        self.bar.finish_and_clear();
    }

    /// Unless quiet: a line for the operator.
    pub fn line(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            eprintln!("{text}");
        }
    }

    /// Since the start.
    pub fn elapsed_s(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

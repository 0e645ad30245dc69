//! On a GPU: decode steps out of CUDA graphs against single launches.
//!
//! Without a GPU the test says so and passes; with `BINFER_REQUIRE_GPU=1` it fails. It looks at the
//! device's memory, so nobody else may use it meanwhile. `BINFER_LOAD_STEPS` makes it shorter.

use std::path::PathBuf;

use binfer_worker::backend::cuda::{CudaBackend, CudaSettings, Half, probe};
use binfer_worker::backend::{MemoryLayout, RankDevice};

use super::pair::{Pair, source};
use super::run::{Course, run};

const STEPS: u64 = 200_000;

fn steps() -> u64 {
    std::env::var("BINFER_LOAD_STEPS").map_or(STEPS, |steps| steps.parse().unwrap())
}

#[test]
fn mixed_load_on_a_gpu() {
    if let Err(missing) = probe() {
        let required = std::env::var("BINFER_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(!required, "{missing}");
        eprintln!("skipped: {missing}");
        return;
    }
    let libraries = std::env::var("BINFER_CUDA_LIBRARIES").unwrap_or_default();
    let backend = |graphs| {
        CudaBackend::new(CudaSettings {
            ordinal: 0,
            half: Half::Bf16,
            target: None,
            libraries: libraries.split(':').map(PathBuf::from).collect(),
            graphs,
            memory_utilization: 1.0,
            threads: 1,
            world: 1,
        })
        .unwrap()
    };
    let source = source();
    let pair = Pair::new(
        &source,
        [true, false].map(|graphs| -> Box<dyn RankDevice> { Box::new(backend(graphs)) }),
    );
    // Loads nothing: it is asked what is left.
    let observer = backend(false);
    let device_bytes = || observer.kv_bytes_max(&MemoryLayout::default()).unwrap();
    run(&source, pair, &Course { steps: steps(), settled: 1000, device_bytes: &device_bytes });
}

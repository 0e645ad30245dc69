//! On the CPU, where CI can run it: one thread against two.

use binfer_worker::backend::RankDevice;
use binfer_worker::backend::cpu::{CpuBackend, CpuSettings};

use super::pair::{Pair, source};
use super::run::{Course, run};

#[test]
fn mixed_load_on_the_cpu() {
    let source = source();
    let backend = |threads| -> Box<dyn RankDevice> {
        Box::new(CpuBackend::new(CpuSettings::new(threads)).unwrap())
    };
    let pair = Pair::new(&source, [backend(1), backend(2)]);
    run(&source, pair, &Course { steps: 800, settled: 300, device_bytes: &|| None });
}

//! What the device reaches at best: copying and multiplying, measured.
//!
//! Times between operations are noted by `steps.rs`. What is made of the numbers is in `timed/`.

use std::time::Instant;

use binfer_kernels::list;
use binfer_kernels::params::FillParams;

use super::device::CudaDevice;
use super::ffi::blas::Blas;
use super::ffi::matmul::{MatmulOperands, MatmulShape};
use super::ffi::memory::DeviceBuffer;
use super::formats::half::Half;
use crate::backend::{BackendError, Peaks};

/// Rows and columns of the gemm that shows what the device computes at best.
const PEAK_SIDE: u32 = 8192;
/// How often copy and gemm are repeated.
const PEAK_REPEATS: u32 = 12;

/// Measures copying and multiplying.
pub(super) fn measure_peaks(device: &CudaDevice, blas: &mut Blas) -> Result<Peaks, BackendError> {
    let bytes = (PEAK_SIDE * PEAK_SIDE) as usize * Half::BYTES;
    let buffers = [DeviceBuffer::new(2 * bytes)?, DeviceBuffer::new(bytes)?];
    let (x, out) = (buffers[0].address(), buffers[1].address());
    let count = 2 * u64::from(PEAK_SIDE) * u64::from(PEAK_SIDE);
    let params = FillParams { out: x, count, seed: 1, range: 1.0, reserved: 0 };
    device.launch(list::FILL, [1024, 1, 1], &params)?;
    let operands = MatmulOperands { m: PEAK_SIDE, x, weight: x + bytes as u64, out };
    let shape = MatmulShape {
        m: PEAK_SIDE,
        n: PEAK_SIDE,
        k: PEAK_SIDE,
        weight_stride: PEAK_SIDE,
        out_stride: PEAK_SIDE,
        accumulates: false,
        out_f32: false,
    };
    let gemm = seconds(device, || blas.matmul(shape, operands, &device.stream))?;
    let copy = seconds(device, || buffers[0].copy_within(0, bytes, bytes, &device.stream))?;
    Ok(Peaks {
        bytes_per_s: 2.0 * bytes as f64 / copy,
        flop_per_s: 2.0 * f64::from(PEAK_SIDE).powi(3) / gemm,
        gemm_side: PEAK_SIDE as usize,
    })
}

/// Time of one of many repeats, after one that is not counted.
fn seconds(
    device: &CudaDevice,
    mut enqueue: impl FnMut() -> Result<(), BackendError>,
) -> Result<f64, BackendError> {
    enqueue()?;
    device.stream.synchronize()?;
    let began = Instant::now();
    for _ in 0..PEAK_REPEATS {
        enqueue()?;
    }
    device.stream.synchronize()?;
    Ok(began.elapsed().as_secs_f64() / f64::from(PEAK_REPEATS))
}

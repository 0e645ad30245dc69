//! What the device says of its own speed: times between operations, and what it reaches at best.
//!
//! A stamp is a kernel of one thread that writes the device's clock into mapped memory: it works in
//! recordings as it does elsewhere, and two steps under way do not share a slot. Deliberately absent:
//! what is made of the numbers, which is `timed/`.

use std::time::Instant;

use binfer_kernels::list::{self, STAMP};
use binfer_kernels::params::{FillParams, StampParams};

use super::CudaBackend;
use super::device::Blocks;
use super::ffi::blas::{Operands, Shape};
use super::ffi::failed;
use super::ffi::memory::DeviceBuffer;
use super::product::word;
use crate::backend::{BackendError, Peaks};

/// Rows and columns of the product that shows what the device computes at best.
const PEAK_SIDE: u32 = 8192;
/// How often copy and product are repeated.
const PEAK_REPEATS: u32 = 12;

impl CudaBackend {
    /// Enqueues the step's next stamp, if stamps were planned.
    pub(super) fn launch_stamp(&mut self) -> Result<(), BackendError> {
        let places = self.step.plan.stamps_max;
        if places == 0 {
            return Ok(());
        }
        let place = self.step.stamps;
        if place == places {
            return Err(failed("stamp", format!("a step notes {places} times at most")));
        }
        let out = self.step.ring.as_ref().map_or(0, |ring| ring.stamps_address());
        let params = StampParams {
            state: self.memory.at.tables.state,
            out,
            place: word(place),
            places: word(places),
            is_first: u32::from(place == 0),
            reserved: 0,
        };
        self.step.stamps += 1;
        self.device.launch_blocks(STAMP, Blocks { after_all: true, ..Blocks::default() }, &params)
    }

    /// Measures copying and multiplying.
    pub(super) fn measure_peaks(&mut self) -> Result<Peaks, BackendError> {
        let bytes = (PEAK_SIDE * PEAK_SIDE) as usize * super::Half::BYTES;
        let buffers = [DeviceBuffer::new(2 * bytes)?, DeviceBuffer::new(bytes)?];
        let (x, out) = (buffers[0].address(), buffers[1].address());
        let count = 2 * u64::from(PEAK_SIDE) * u64::from(PEAK_SIDE);
        let params = FillParams { out: x, count, seed: 1, range: 1.0, reserved: 0 };
        self.device.launch(list::FILL, [1024, 1, 1], &params)?;
        let weight = x + bytes as u64;
        let shape = Shape {
            tokens: PEAK_SIDE,
            outputs: PEAK_SIDE,
            inputs: PEAK_SIDE,
            stride: PEAK_SIDE,
            out_stride: PEAK_SIDE,
            adds: false,
            single: false,
        };
        let product = self.seconds(|backend| {
            let operands = Operands { tokens: PEAK_SIDE, x, weight, out };
            backend.blas.product(shape, operands, &backend.device.stream)
        })?;
        let copy = self
            .seconds(|backend| buffers[0].copy_within(0, bytes, bytes, &backend.device.stream))?;
        Ok(Peaks {
            bytes_per_s: 2.0 * bytes as f64 / copy,
            flop_per_s: 2.0 * f64::from(PEAK_SIDE).powi(3) / product,
            product_side: PEAK_SIDE as usize,
        })
    }

    /// Time of one of many repeats, after one that is not counted.
    fn seconds(
        &mut self,
        mut enqueue: impl FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<f64, BackendError> {
        enqueue(self)?;
        self.device.stream.synchronize()?;
        let began = Instant::now();
        for _ in 0..PEAK_REPEATS {
            enqueue(self)?;
        }
        self.device.stream.synchronize()?;
        Ok(began.elapsed().as_secs_f64() / f64::from(PEAK_REPEATS))
    }
}

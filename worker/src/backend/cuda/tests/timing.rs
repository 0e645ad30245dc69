//! The times that a step notes.

use std::sync::Arc;

use binfer_shard::DType;

use super::{Rig, batch, layout, piece};
use crate::backend::args::{EmbedArgs, TensorKind};
use crate::backend::cuda::Half;
use crate::backend::{Backend, DeviceClock, MemoryLayout};

#[test]
fn steps_note_when_operations_begin_and_when_they_end() {
    let Some(mut rig) = Rig::new(Half::Bf16, 3) else { return };
    let table = rig.weight(DType::F32, 50, 64).weight;
    let (at, arena) = rig.place(&[(8, 64, TensorKind::Sum)], true);
    rig.allocate(&MemoryLayout { stamps_max: 3, ..layout(arena) });
    let embed = EmbedArgs { table, first_token: 0, out: at[0] };
    let upload = |rig: &mut Rig| {
        rig.backend.upload(Arc::new(batch(&[piece(0, 0, &[7; 8])]))).unwrap();
        rig.backend.stamp().unwrap();
    };
    let mut end = 0;
    for step in 0..9 {
        upload(&mut rig);
        rig.backend.embed(&embed).unwrap();
        let stamps = rig.outcome().stamps_ns;
        assert_eq!(stamps.len(), 3, "step {step}");
        assert!(stamps.is_sorted() && stamps[0] >= end && stamps[2] > stamps[0], "{stamps:?}");
        end = stamps[2];
        assert_eq!(rig.backend.launched(), ["stamp", "apply", "stamp", "embed", "finish", "stamp"]);
    }
    upload(&mut rig);
    rig.backend.stamp().unwrap();
    let error = rig.backend.commit().unwrap_err().to_string();
    assert_eq!(error, "stamp: a step notes 3 times at most");
}

//! Matrices that checkpoints store in another form: the numbers of each are those of the files.

use std::collections::BTreeMap;

use binfer_shard::dequant::dequantize_row;
use binfer_shard::quant::{E2M1, e4m3};
use binfer_shard::{Checkpoint, DType, LocalPart, layouts};
use safetensors::SafeTensors;

use crate::mixtures::fixture;

/// The whole model as one rank loads it.
struct Loaded {
    source: Checkpoint,
    parts: BTreeMap<String, LocalPart>,
}

impl Loaded {
    fn of(name: &str) -> Self {
        let source = Checkpoint::open(fixture(name)).unwrap();
        let layout = &layouts(source.spec(), 1).unwrap()[0];
        let tensors = source.local_tensors(layout).unwrap();
        let parts = tensors.into_iter().flat_map(|tensor| tensor.parts);
        let parts = parts.map(|part| (part.source.clone(), part)).collect();
        Self { source, parts }
    }

    /// The values of a part, row by row, without the columns that fill up blocks.
    fn values(&self, name: &str) -> Vec<f32> {
        let part = &self.parts[name];
        let mut packed = vec![0; part.bytes() as usize];
        self.source.read_into(part, &mut packed).unwrap();
        let mut values = vec![0.0; (part.rows * part.cols) as usize];
        dequantize_row(part.dtype, &packed, &mut values).unwrap();
        let rows = values.chunks(part.cols as usize);
        rows.flat_map(|row| row[..part.inputs.end as usize].to_vec()).collect()
    }
}

/// The bytes and the shape of a stored tensor.
fn stored(file: &str, name: &str) -> (Vec<u8>, Vec<usize>) {
    let bytes = std::fs::read(fixture(file).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    (tensor.data().to_vec(), tensor.shape().to_vec())
}

fn bf16(file: &str, name: &str) -> (Vec<f32>, Vec<usize>) {
    let (bytes, shape) = stored(file, name);
    let value = |pair: &[u8]| f32::from_bits(u32::from(pair[1]) << 24 | u32::from(pair[0]) << 16);
    (bytes.chunks_exact(2).map(value).collect(), shape)
}

const EXPERTS: &str = "model.layers.1.mlp.experts";

#[test]
fn fused_experts_are_offered_one_by_one() {
    let loaded = Loaded::of("qwen3-moe-fused");
    let (fused, shape) = bf16("qwen3-moe-fused", &format!("{EXPERTS}.gate_up_proj"));
    let [experts, rows, cols] = shape[..] else { panic!("{shape:?}") };
    let half = rows / 2 * cols;
    for expert in 0..experts {
        let of = |name: &str| loaded.values(&format!("{EXPERTS}.{expert}.{name}.weight"));
        assert_eq!(of("gate_proj"), fused[expert * 2 * half..][..half], "{expert}");
        assert_eq!(of("up_proj"), fused[expert * 2 * half + half..][..half], "{expert}");
    }
    // The same model with tensors of its own for each expert.
    let one_by_one = Loaded::of("qwen3-moe");
    for expert in 0..experts {
        for of in ["gate_proj", "up_proj", "down_proj"] {
            let name = format!("{EXPERTS}.{expert}.{of}.weight");
            assert_eq!(loaded.values(&name), one_by_one.values(&name), "{name}");
        }
    }
}

#[test]
fn experts_of_gpt_oss_are_transposed_and_alternate() {
    let loaded = Loaded::of("gpt-oss-bf16");
    for (name, of) in
        [("gate_up_proj", &["gate_proj", "up_proj"][..]), ("down_proj", &["down_proj"])]
    {
        let (fused, shape) = bf16("gpt-oss-bf16", &format!("{EXPERTS}.{name}"));
        let (bias, _) = bf16("gpt-oss-bf16", &format!("{EXPERTS}.{name}_bias"));
        let [experts, cols, rows] = shape[..] else { panic!("{shape:?}") };
        for expert in 0..experts {
            for (number, of) in of.iter().enumerate() {
                let step = if name == "down_proj" { 1 } else { 2 };
                let (mut weights, mut biases) = (Vec::new(), Vec::new());
                for row in (number..rows).step_by(step) {
                    biases.push(bias[expert * rows + row]);
                    weights.extend((0..cols).map(|col| fused[(expert * cols + col) * rows + row]));
                }
                let name = format!("{EXPERTS}.{expert}.{of}");
                assert_eq!(loaded.values(&format!("{name}.weight")), weights, "{name}");
                assert_eq!(loaded.values(&format!("{name}.bias")), biases, "{name}");
            }
        }
    }
}

#[test]
fn codes_and_scales_of_mxfp4_are_joined() {
    let loaded = Loaded::of("gpt-oss-mxfp4");
    let (codes, shape) = stored("gpt-oss-mxfp4", &format!("{EXPERTS}.gate_up_proj_blocks"));
    let (scales, _) = stored("gpt-oss-mxfp4", &format!("{EXPERTS}.gate_up_proj_scales"));
    let [experts, rows, blocks, 16] = shape[..] else { panic!("{shape:?}") };
    for expert in 0..experts {
        for (number, of) in ["gate_proj", "up_proj"].iter().enumerate() {
            let mut wanted = Vec::new();
            for row in (number..rows).step_by(2) {
                for block in 0..blocks {
                    let at = (expert * rows + row) * blocks + block;
                    let scale = 2.0_f32.powi(i32::from(scales[at]) - 127);
                    for byte in &codes[at * 16..][..16] {
                        let value = |code: u8| scale * E2M1[usize::from(code)];
                        wanted.extend([value(byte & 15), value(byte >> 4)]);
                    }
                }
            }
            let name = format!("{EXPERTS}.{expert}.{of}.weight");
            assert_eq!(loaded.parts[&name].dtype, DType::MXFP4);
            assert_eq!(loaded.values(&name), wanted, "{name}");
        }
    }
}

/// The values of an FP8 matrix, row by row.
fn fp8(name: &str) -> (Vec<f32>, usize) {
    let (codes, shape) = stored("deepseek-v3-fp8", name);
    let (scales, of_scales) = stored("deepseek-v3-fp8", &format!("{name}_scale_inv"));
    let scale = |row: usize, col: usize| {
        let at = row / 128 * of_scales[1] + col / 128;
        f32::from_le_bytes(scales[at * 4..][..4].try_into().unwrap())
    };
    let cols = shape[1];
    let value = |(at, code): (usize, &u8)| scale(at / cols, at % cols) * e4m3(*code);
    (codes.iter().enumerate().map(value).collect(), cols)
}

#[test]
fn codes_and_scales_of_fp8_are_joined_and_blocks_filled_up() {
    let loaded = Loaded::of("deepseek-v3-fp8");
    for name in ["self_attn.o_proj", "mlp.experts.3.down_proj", "mlp.shared_experts.gate_proj"] {
        let name = format!("model.layers.1.{name}.weight");
        let (wanted, cols) = fp8(&name);
        let part = &loaded.parts[&name];
        assert_eq!(
            (part.cols as usize, part.inputs.end as usize),
            (cols.next_multiple_of(128), cols)
        );
        assert_eq!(loaded.values(&name), wanted, "{name}");
    }
}

#[test]
fn keys_and_values_of_latent_attention_come_out_of_one_matrix() {
    let name = "model.layers.0.self_attn.kv_b_proj.weight";
    for file in ["deepseek-v2", "deepseek-v3-fp8"] {
        let loaded = Loaded::of(file);
        let (whole, cols) = if file == "deepseek-v2" {
            let (values, shape) = bf16(file, name);
            (values, shape[1])
        } else {
            fp8(name)
        };
        let (nope, value) = (16, if file == "deepseek-v2" { 16 } else { 32 });
        let (mut keys, mut values) = (Vec::new(), Vec::<f32>::new());
        for head in whole.chunks((nope + value) * cols) {
            let key = |latent: usize| (0..nope).map(move |row| head[row * cols + latent]);
            keys.extend((0..cols).flat_map(key));
            values.extend(&head[nope * cols..]);
        }
        let part = |of: &str| loaded.values(&name.replace("weight", of));
        assert_eq!(part("k.weight"), keys, "{file}");
        assert_eq!(part("v.weight"), values, "{file}");
    }
}

#[test]
fn views_are_read_in_calls_of_any_length_and_of_any_rank() {
    for name in ["gpt-oss-bf16", "gpt-oss-mxfp4", "deepseek-v2", "deepseek-v3-fp8"] {
        let source = Checkpoint::open(fixture(name)).unwrap();
        for layout in layouts(source.spec(), 2).unwrap() {
            let parts = source.local_tensors(&layout).unwrap().into_iter();
            for part in parts.flat_map(|tensor| tensor.parts) {
                let mut whole = vec![0; part.bytes() as usize];
                source.read_into(&part, &mut whole).unwrap();
                let mut reader = source.reader(&part).unwrap();
                let mut pieces = vec![0; whole.len()];
                for piece in pieces.chunks_mut(777) {
                    reader.fill(piece).unwrap();
                }
                assert!(pieces == whole, "{name}: {}", part.source);
            }
        }
    }
}

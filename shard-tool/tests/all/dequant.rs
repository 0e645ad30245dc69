//! The reference meaning of packed types, against values worked out by hand and by `gguf`.

use binfer_shard::DType;
use binfer_shard::dequant::dequantize_row;
use half::f16;

#[test]
fn q4_1_low_nibbles_come_first() {
    let mut block = [f16::from_f32(0.5).to_le_bytes(), f16::from_f32(-1.0).to_le_bytes()].concat();
    block.extend((0..16_u8).map(|index| index | (15 - index) << 4));
    let mut out = [0.0; 32];
    dequantize_row(DType::Q4_1, &block, &mut out).unwrap();
    for index in 0..16_u8 {
        assert_eq!(out[usize::from(index)], 0.5 * f32::from(index) - 1.0);
        assert_eq!(out[16 + usize::from(index)], 0.5 * f32::from(15 - index) - 1.0);
    }
}

#[test]
fn q8_0_bytes_are_signed() {
    let mut row = Vec::new();
    for (scale, first) in [(0.25, -128_i8), (2.0, 96)] {
        row.extend(f16::from_f32(scale).to_le_bytes());
        row.extend((0..32).map(|index| (first + index).to_le_bytes()[0]));
    }
    let mut out = [0.0; 64];
    dequantize_row(DType::Q8_0, &row, &mut out).unwrap();
    assert_eq!((out[0], out[31], out[32], out[63]), (-32.0, -24.25, 192.0, 254.0));
}

#[test]
fn plain_types() {
    let mut out = [0.0; 2];
    let row = [f16::from_f32(1.5).to_le_bytes(), f16::from_f32(-0.125).to_le_bytes()].concat();
    dequantize_row(DType::F16, &row, &mut out).unwrap();
    assert_eq!(out, [1.5, -0.125]);
    dequantize_row(DType::BF16, &[0xc0, 0x3f, 0x80, 0xc0], &mut out).unwrap();
    assert_eq!(out, [1.5, -4.0]);
    let row = [3.25_f32.to_le_bytes(), f32::MIN_POSITIVE.to_le_bytes()].concat();
    dequantize_row(DType::F32, &row, &mut out).unwrap();
    assert_eq!(out, [3.25, f32::MIN_POSITIVE]);
}

#[test]
fn packed_types_equal_the_python_package_in_bits() {
    const ELEMS: usize = 1024;
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_elems() > 1) {
        let name = dtype.name();
        let path = format!("{}/../tests/fixtures/quants/{name}.bin", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).unwrap();
        let (packed, values) = bytes.split_at(bytes.len() - 4 * ELEMS);
        let mut out = [0.0; ELEMS];
        dequantize_row(dtype, packed, &mut out).unwrap();
        let bits = |value: &f32| value.to_bits();
        let want: Vec<u32> = values.as_chunks().0.iter().map(|v| u32::from_le_bytes(*v)).collect();
        assert_eq!(out.iter().map(bits).collect::<Vec<_>>(), want, "{name}");
    }
}

#[test]
fn lengths_must_agree() {
    for (dtype, bytes, elems) in
        [(DType::Q4_1, 20, 31), (DType::Q8_0, 33, 32), (DType::F16, 3, 1), (DType::Q6_K, 210, 32)]
    {
        let error = dequantize_row(dtype, &vec![0; bytes], &mut vec![0.0; elems]).unwrap_err();
        assert!(error.to_string().contains("are not"), "{error}");
    }
}

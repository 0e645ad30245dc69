//! Reading ahead and piece by piece: order, bytes, and an end at the first failure.

use std::fs::OpenOptions;

use binfer_shard::{Checkpoint, Error, ErrorKind, LocalTensor, layouts, local_tensors, read_ahead};

use crate::gguf_writer::{Llama, TINY};
use crate::scratch;

fn opened(name: &str) -> (Checkpoint, Vec<LocalTensor>) {
    let path = scratch(name);
    Llama { layers: 3, ..TINY }.writer().write(&path);
    let source = Checkpoint::open(&path).unwrap();
    let tensors = local_tensors(source.spec(), &layouts(source.spec(), 2).unwrap()[1]).unwrap();
    (source, tensors)
}

#[test]
fn tensors_come_in_order_and_whole() {
    let (source, tensors) = opened("ahead-order.gguf");
    let mut names = Vec::new();
    read_ahead(&source, &tensors, |tensor, parts| {
        for (part, bytes) in tensor.parts.iter().zip(&parts) {
            let mut alone = vec![0; part.bytes() as usize];
            source.read_into(part, &mut alone)?;
            assert!(*bytes == alone, "{}", part.source);
        }
        assert_eq!(parts.len(), tensor.parts.len());
        names.push(tensor.name.clone());
        Ok::<_, Error>(())
    })
    .unwrap();
    assert!(names.iter().eq(tensors.iter().map(|tensor| &tensor.name)), "{names:?}");
    read_ahead(&source, &[], |_, _| {
        Err(source.read_into(&tensors[0].parts[0], &mut []).unwrap_err())
    })
    .unwrap();
}

#[test]
fn pieces_of_any_length_are_the_whole() {
    let (source, tensors) = opened("ahead-pieces.gguf");
    for (seed, part) in tensors.iter().flat_map(|tensor| &tensor.parts).enumerate() {
        let mut whole = vec![0; part.bytes() as usize];
        source.read_into(part, &mut whole).unwrap();
        let mut reader = source.reader(part).unwrap();
        let (mut at, mut length) = (0, seed);
        while at < whole.len() {
            length = (length * 7 + 3) % 301;
            let end = (at + length).min(whole.len());
            let mut piece = vec![0; end - at];
            reader.fill(&mut piece).unwrap();
            assert!(piece == whole[at..end], "{} {at}..{end}", part.source);
            at = end;
        }
        let error = reader.fill(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    }
}

#[test]
fn a_consumer_that_fails_is_not_called_again() {
    let (source, tensors) = opened("ahead-consumer.gguf");
    for fails_at in [0, 1, 7, tensors.len() - 1] {
        let mut calls = 0;
        let outcome = read_ahead(&source, &tensors, |tensor, _| {
            calls += 1;
            let refused = || source.read_into(&tensor.parts[0], &mut []).unwrap_err();
            if calls == fails_at + 1 { Err(refused()) } else { Ok(()) }
        });
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Mismatch);
        assert_eq!(calls, fails_at + 1);
    }
}

#[test]
fn a_read_that_fails_comes_in_its_turn() {
    let (source, tensors) = opened("ahead-read.gguf");
    let file = OpenOptions::new().write(true).open(source.path()).unwrap();
    // The last tensor of the spec is the last of the file.
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let mut calls = 0;
    let outcome: Result<(), Error> = read_ahead(&source, &tensors, |_, _| {
        calls += 1;
        Ok(())
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Truncated);
    assert_eq!(calls, tensors.len() - 1);
}

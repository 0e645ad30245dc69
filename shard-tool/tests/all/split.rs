//! Models in several GGUF files: any part opens all of them, and a part that is not one is refused.

use std::path::PathBuf;

use binfer_shard::gguf::SplitName;
use binfer_shard::{Checkpoint, Error, ErrorKind};

use crate::gguf_writer::{GgufWriter, Llama, TINY, byte_of};
use crate::scratch;

const COUNT: usize = 3;

/// A folder with the parts, after `spoil` had its way with them; the paths.
fn written(folder: &str, spoil: impl FnOnce(&mut Vec<GgufWriter>)) -> Vec<PathBuf> {
    let folder = scratch(&format!("split-{folder}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let mut parts = TINY.writer().split(COUNT);
    spoil(&mut parts);
    let path = |number: usize| folder.join(format!("tiny-{number:05}-of-{COUNT:05}.gguf"));
    let paths: Vec<PathBuf> = (1..=COUNT).map(path).collect();
    for (part, path) in parts.iter().zip(&paths) {
        part.write(path);
    }
    paths
}

fn refused(paths: &[PathBuf], named: usize) -> Error {
    Checkpoint::open(&paths[named]).unwrap_err()
}

#[test]
fn any_part_opens_all() {
    let whole = scratch("split-whole.gguf");
    TINY.writer().write(&whole);
    let whole = Checkpoint::open(&whole).unwrap();
    let paths = written("good", |_| {});
    let mut digests = Vec::new();
    for path in &paths {
        let source = Checkpoint::open(path).unwrap();
        assert_eq!(source.spec(), whole.spec());
        assert!(
            source.gguf().unwrap().metadata.strings("tokenizer.ggml.tokens").unwrap().is_some()
        );
        digests.push(source.digest());
        let layout = &binfer_shard::layouts(source.spec(), 1).unwrap()[0];
        for tensor in binfer_shard::local_tensors(source.spec(), layout).unwrap() {
            for part in &tensor.parts {
                let mut out = vec![0; part.bytes() as usize];
                source.read_into(part, &mut out).unwrap();
                let bytes = part.ranges.iter().flat_map(Clone::clone);
                let want: Vec<u8> = bytes.map(|index| byte_of(&part.source, index)).collect();
                assert!(out == want, "{}", part.source);
            }
        }
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "the same checkpoint");
}

#[test]
fn one_part_of_one_is_a_whole_file() {
    let path = scratch("split-of-one.gguf");
    TINY.writer().split(1)[0].write(&path);
    Checkpoint::open(&path).unwrap();
}

#[test]
fn missing_parts_are_listed() {
    let paths = written("missing", |_| {});
    std::fs::remove_file(&paths[0]).unwrap();
    std::fs::remove_file(&paths[2]).unwrap();
    let error = refused(&paths, 1);
    assert_eq!(error.kind(), ErrorKind::Format);
    let message = error.to_string();
    let named = message.contains("tiny-00001-of-00003.gguf")
        && message.contains("tiny-00003-of-00003.gguf")
        && message.starts_with(&format!("{}: 2 of 3 parts", paths[1].display()));
    assert!(named, "{message}");
}

#[test]
fn foreign_parts_are_named_with_the_reason() {
    type Spoil = fn(&mut Vec<GgufWriter>);
    let cases: [(&str, Spoil, &str); 5] = [
        ("count", |parts| _ = parts[1].u32("split.count", 4), "split.count is 4, not 3"),
        ("number", |parts| _ = parts[1].u32("split.no", 2), "split.no is 2, not 1"),
        (
            "tensors",
            |parts| _ = parts[1].u32("split.tensors.count", 99),
            "split.tensors.count is 99, not 11",
        ),
        ("plain", |parts| parts[1] = TINY.writer(), "split.no is missing, not 1"),
        // A part of another model of as many tensors, with a tensor that the first part has.
        (
            "other",
            |parts| parts[1].tensors[0] = parts[0].tensors[0].clone(),
            "a tensor of this name too",
        ),
    ];
    for (name, spoil, says) in cases {
        let paths = written(name, spoil);
        let error = refused(&paths, 0);
        let message = error.to_string();
        let place = message.starts_with(&paths[1].display().to_string());
        assert!(place && message.contains(says), "{name}: {message}");
    }
}

#[test]
fn parts_that_do_not_add_up_are_refused() {
    let paths = written("few", |parts| _ = parts[2].tensors.pop());
    let message = refused(&paths, 0).to_string();
    assert!(
        message.contains("3 parts have 10 tensors, but split.tensors.count is 11"),
        "{message}"
    );
    // As many tensors, of another shape: it is a part, but not of this model.
    let wide = Llama { hidden: 128, ..TINY }.writer().split(COUNT);
    let paths = written("shapes", |parts| parts[2] = wide[2].clone());
    let message = refused(&paths, 0).to_string();
    assert!(message.contains("has tensors of another shape"), "{message}");
}

#[test]
fn names_of_parts() {
    let part = SplitName::parse("Qwen3-8B-Q4_K_M-00002-of-00013.gguf").unwrap();
    assert_eq!(part, SplitName { stem: "Qwen3-8B-Q4_K_M", number: 2, count: 13 });
    assert_eq!(part.sibling(11), "Qwen3-8B-Q4_K_M-00011-of-00013.gguf");
    for other in ["a.gguf", "a-1-of-2.gguf", "a-00001-of-00002", "a-0000x-of-00002.gguf", "ü.gguf"]
    {
        assert_eq!(SplitName::parse(other), None, "{other}");
    }
}

#[test]
fn links_to_parts_keep_their_names() {
    let paths = written("links", |_| {});
    // As the hub's cache has them.
    let repository = scratch("split-links-repository");
    let _ = std::fs::remove_dir_all(&repository);
    let folder = repository.join("snapshots/c0ffee/q8");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir(repository.join("blobs")).unwrap();
    for (index, path) in paths.iter().enumerate() {
        std::fs::rename(path, repository.join(format!("blobs/{index}"))).unwrap();
        let link = folder.join(path.file_name().unwrap());
        std::os::unix::fs::symlink(format!("../../../blobs/{index}"), link).unwrap();
    }
    let named = folder.join(paths[1].file_name().unwrap());
    Checkpoint::open(&named).unwrap();
    // The part that is named may be a link to anywhere; those that are found beside it may not.
    let other = folder.join(paths[0].file_name().unwrap());
    std::fs::rename(repository.join("blobs/0"), repository.join("elsewhere")).unwrap();
    std::fs::remove_file(&other).unwrap();
    std::os::unix::fs::symlink("../../../elsewhere", &other).unwrap();
    let message = Checkpoint::open(&named).unwrap_err().to_string();
    assert!(message.contains("a link out of the model's folder, to /"), "{message}");
}

#[test]
fn names_and_numbers_must_make_sense() {
    let paths = written("renamed", |_| {});
    let renamed = paths[0].with_file_name("model.gguf");
    std::fs::rename(&paths[0], &renamed).unwrap();
    let message = Checkpoint::open(&renamed).unwrap_err().to_string();
    let says = "part 1 of 3, but its name has not the ending \"-00001-of-00003.gguf\"";
    assert!(message.contains(says), "{message}");

    for (key, value) in [("split.count", 60_000), ("split.no", 3)] {
        let paths = written("numbers", |parts| _ = parts[0].u32(key, value));
        let message = refused(&paths, 0).to_string();
        assert!(message.contains(&format!("{key} ")) && message.contains("at most"), "{message}");
    }
}

#[test]
fn parts_have_the_errors_of_files() {
    let paths = written("broken", |_| {});
    let bytes = std::fs::read(&paths[2]).unwrap();
    std::fs::write(&paths[2], &bytes[..bytes.len() - 1]).unwrap();
    let error = refused(&paths, 0);
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert!(error.to_string().starts_with(&paths[2].display().to_string()), "{error}");
}

#[test]
fn every_flipped_byte_of_a_part_is_an_error_or_a_model() {
    let paths = written("flipped", |_| {});
    let bytes = std::fs::read(&paths[1]).unwrap();
    let header = TINY.writer().split(COUNT)[1].header().len();
    for at in 0..header {
        for mask in [1, 0x80] {
            let mut flipped = bytes.clone();
            flipped[at] ^= mask;
            std::fs::write(&paths[1], &flipped).unwrap();
            for named in [0, 1] {
                if let Err(error) = Checkpoint::open(&paths[named]) {
                    assert!(error.to_string().contains("-of-00003.gguf"), "{error}");
                }
            }
        }
    }
}

//! Shards that are damaged, mixed up or half written: refused with file, tensor and reason.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use binfer_shard::{Checkpoint, Error, ErrorKind, layouts, read_ahead, shards};

use crate::gguf_writer::{Llama, TINY};
use crate::scratch;
use crate::shards::{absent, cut};

fn checkpoint(name: &str, llama: Llama) -> Checkpoint {
    let path = scratch(name);
    llama.writer().write(&path);
    Checkpoint::open(&path).unwrap()
}

/// What opening a folder says.
fn refusal(folder: &Path) -> String {
    Checkpoint::open(folder).unwrap_err().to_string()
}

fn rank(folder: &Path, rank: u32) -> PathBuf {
    folder.join(format!("rank-{rank}-of-2.safetensors"))
}

fn edit(path: &Path, change: impl Fn(&str) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed);
    fs::write(path, changed).unwrap();
}

#[test]
fn files_that_are_missing_cut_short_swapped_or_foreign() {
    let source = checkpoint("faults-files.gguf", TINY);
    let folder = cut(&source, 2, "faults-files");
    let (one, other) = (rank(&folder, 0), rank(&folder, 1));
    let (good, good_other) = (fs::read(&one).unwrap(), fs::read(&other).unwrap());

    fs::remove_file(&other).unwrap();
    assert!(refusal(&folder).contains("rank-1-of-2.safetensors: it is missing; copy it here"));
    fs::write(&other, &good).unwrap();
    fs::write(&one, &good_other).unwrap();
    let says = refusal(&folder);
    assert!(
        says.contains("rank-0-of-2.safetensors: it holds rank 1 of 2, not rank 0 of 2"),
        "{says}"
    );
    fs::write(&other, &good_other).unwrap();

    for bytes in [0, 7, 5000, good.len() - 1] {
        fs::write(&one, &good[..bytes]).unwrap();
        let says = refusal(&folder);
        let short = format!("{} bytes short: it has {bytes} of {}", good.len() - bytes, good.len());
        assert!(says.contains(&short), "{says}");
    }
    // The last one was cut within the final norm.
    assert!(
        refusal(&folder).contains("rank-0-of-2.safetensors: output_norm.weight: 1 bytes short")
    );
    fs::write(&one, [&good[..], b"more"].concat()).unwrap();
    assert!(refusal(&folder).contains("4 bytes after the last tensor"));

    // The same shapes, other weights: the embedding of another model.
    let stranger = scratch("faults-stranger.gguf");
    let mut bytes = TINY.writer().bytes();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&stranger, &bytes).unwrap();
    let stranger = cut(&Checkpoint::open(&stranger).unwrap(), 2, "faults-stranger");
    fs::copy(rank(&stranger, 0), &one).unwrap();
    let says = refusal(&folder);
    assert!(says.contains("cut from another checkpoint than the manifest says"), "{says}");
    fs::write(&one, &good).unwrap();
    File::options().write(true).open(&one).unwrap().write_all_at(b"x", 20).unwrap();
    assert!(refusal(&folder).contains("its header is damaged"));
    fs::write(&one, &good).unwrap();
    Checkpoint::open(&folder).unwrap();
}

#[test]
fn manifests_and_settings_that_do_not_fit() {
    let source = checkpoint("faults-manifest.gguf", TINY);
    let refused = |name: &str, file: &str, from: &str, to: &str| {
        let folder = cut(&source, 2, name);
        edit(&folder.join(file), |text| text.replacen(from, to, 1));
        refusal(&folder)
    };
    for (from, to, says) in [
        (
            "\"layout_version\":1",
            "\"layout_version\":2",
            "shards of layout version 2; this is 1; shard",
        ),
        ("binfer-shards", "other-shards", "its format is \"other-shards\""),
        ("\"hidden\":64", "\"hidden\":65", "the settings beside it describe another model"),
        ("\"tensor_parallel\":2", "\"tensor_parallel\":3", "its layout is not how this version"),
        ("\"ffn\":[0,64]", "\"ffn\":[0,32]", "its layout is not how this version"),
        (
            "\"tensor\":\"embed\"",
            "\"tensor\":\"head\"",
            "its list of rank-0-of-2.safetensors is not",
        ),
        ("\"xxh3\":\"", "\"xxh3\":\"g", "is not 16 hexadecimal digits"),
        ("\"dtype\":\"Q8_0\"", "\"dtype\":\"Q9_0\"", "token_embd.weight: its type \"Q9_0\""),
        ("{", "", "manifest.json: not as it should be"),
    ] {
        let error = refused("faults-manifest", "manifest.json", from, to);
        assert!(error.contains("manifest.json") && error.contains(says), "{from}: {error}");
    }
    let folder = cut(&source, 2, "faults-settings");
    fs::remove_file(folder.join("metadata.gguf")).unwrap();
    assert!(refusal(&folder).contains("its settings are missing: neither config.json nor"));
}

#[test]
fn damaged_weights_are_noticed_when_they_are_read_and_when_verified() {
    let source = checkpoint("faults-weights.gguf", TINY);
    let folder = cut(&source, 2, "faults-weights");
    let verify = || shards::verify(&source, &folder, |_| true);
    assert_eq!(verify().unwrap(), 2);
    let bytes = fs::metadata(rank(&folder, 1)).unwrap().len();
    let file = OpenOptions::new().read(true).write(true).open(rank(&folder, 1)).unwrap();
    let mut last = [0];
    file.read_exact_at(&mut last, bytes - 1).unwrap();
    file.write_all_at(&[last[0] ^ 0x40], bytes - 1).unwrap();

    let opened = Checkpoint::open(&folder).unwrap();
    let layout = &layouts(opened.spec(), 2).unwrap()[1];
    let tensors = opened.local_tensors(layout).unwrap();
    let error = read_ahead(&opened, &tensors, |_, _| Ok::<_, Error>(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let says =
        "rank-1-of-2.safetensors: output_norm.weight of rank 1: its bytes are not those that";
    assert!(error.to_string().contains(says), "{error}");
    assert!(verify().unwrap_err().to_string().contains(says));
}

#[test]
fn verifying_compares_with_the_checkpoint_itself() {
    let source = checkpoint("faults-verify.gguf", TINY);
    let folder = cut(&source, 2, "faults-verify");
    // A change that the digest of the checkpoint does not see: outside of its samples.
    let info = source.gguf().unwrap().tensor("token_embd.weight").unwrap().clone();
    let changed = scratch("faults-verify-changed.gguf");
    fs::copy(source.path(), &changed).unwrap();
    let at = info.offset;
    assert!(info.bytes / 2 > 4096 / 2 + 1);
    File::options().write(true).open(&changed).unwrap().write_all_at(&[0x55], at).unwrap();
    let changed = Checkpoint::open(&changed).unwrap();
    assert_eq!(changed.digest(), source.digest());
    let error = shards::verify(&changed, &folder, |_| true).unwrap_err();
    assert_eq!(error.tensor_name(), Some("token_embd.weight"));
    assert!(error.to_string().contains("its bytes are not those of the checkpoint"), "{error}");

    let verify = |source| shards::verify(source, &folder, |_| true).unwrap_err().to_string();
    let other = checkpoint("faults-verify-other.gguf", Llama { vocab: 260, ..TINY });
    assert!(verify(&other).contains("cut from another checkpoint, \"faults-verify.gguf\""));
    let manifest = folder.join("manifest.json");
    edit(&manifest, |text| {
        text.replacen("\"repeated\":\"replicated\"", "\"repeated\":\"never\"", 1)
    });
    assert!(verify(&source).contains("manifest.json: it does not say what was cut"));
}

#[test]
fn every_truncation_of_a_manifest_and_many_changes_are_survived() {
    let source = checkpoint("faults-fuzz.gguf", TINY);
    let folder = cut(&source, 2, "faults-fuzz");
    let path = folder.join("manifest.json");
    let good = fs::read(&path).unwrap();
    for length in (0..good.len()).step_by(17) {
        fs::write(&path, &good[..length]).unwrap();
        assert!(Checkpoint::open(&folder).is_err(), "{length} bytes");
    }
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= [1, 2, 4, 16, 64, 128][at % 6];
        fs::write(&path, bytes).unwrap();
        // A digit of a digest may change unseen until weights are read.
        let _ = Checkpoint::open(&folder);
    }
}

/// Names in the folder of scratch files that begin as those of folders in the making do.
fn partials(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(scratch("")).unwrap().map(|entry| entry.unwrap().path());
    let begins = |path: &PathBuf| {
        path.file_name().unwrap().to_string_lossy().starts_with(&format!(".{name}."))
    };
    entries.filter(begins).collect()
}

#[test]
fn what_fails_leaves_nothing() {
    let source = checkpoint("faults-staging.gguf", Llama { layers: 2, ..TINY });
    let target = absent("faults-staging");
    let write = || shards::write(&source, 2, &target, |_| true);
    fs::create_dir(&target).unwrap();
    write().unwrap();
    Checkpoint::open(&target).unwrap();
    assert!(!target.join(".lock").exists());
    let error = write().unwrap_err().to_string();
    assert!(error.contains("faults-staging: it is there already; remove it"), "{error}");
    assert_eq!(partials("faults-staging"), Vec::<PathBuf>::new());

    fs::remove_dir_all(&target).unwrap();
    let some = source.spec().weight_bytes() / 2;
    let error = shards::write(&source, 2, &target, |done| done < some).unwrap_err().to_string();
    assert!(error.contains("interrupted") && !target.exists(), "{error}");
    assert_eq!(partials("faults-staging"), Vec::<PathBuf>::new());

    let file = OpenOptions::new().write(true).open(source.path()).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    assert_eq!(write().unwrap_err().kind(), ErrorKind::Truncated);
    assert!(partials("faults-staging").is_empty() && !target.exists());
}

#[test]
fn of_what_killed_processes_left_only_what_is_known_for_it_is_removed() {
    let source = checkpoint("faults-left.gguf", Llama { layers: 2, ..TINY });
    // Other tests would clear a folder that they share.
    let above = absent("faults-left");
    fs::create_dir(&above).unwrap();
    let target = above.join("out");
    let write = || shards::write(&source, 2, &target, |_| true);
    // A folder as a killed process leaves it; `said` is in its lock.
    let left = |digit: &str, said: Option<&str>| {
        let name = format!(".out.{}.partial", digit.repeat(16));
        let folder = above.join(&name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("rank-0-of-2.safetensors"), b"half").unwrap();
        if let Some(said) = said {
            fs::write(folder.join(".lock"), said.replace("NAME", &name)).unwrap();
        }
        folder
    };
    // Finished shards that somebody gave such a name; one whose lock says another name.
    let (renamed, moved) = (left("a", None), left("b", Some(".out.0.partial")));
    let dead = left("c", Some("NAME"));
    // On its way to another place.
    let other = above.join(".else.0123456789abcdef.partial");
    fs::create_dir(&other).unwrap();
    fs::write(other.join(".lock"), other.file_name().unwrap().as_encoded_bytes()).unwrap();
    // Another's link to a folder of ours, and a lock that leads out of it.
    let precious = absent("faults-left-precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "precious").unwrap();
    let linked = above.join(".out.dddddddddddddddd.partial");
    std::os::unix::fs::symlink(&precious, &linked).unwrap();
    let locked_away = left("e", None);
    std::os::unix::fs::symlink(precious.join("file"), locked_away.join(".lock")).unwrap();
    // What a living process fills is in the way.
    let alive = left("f", Some("NAME"));
    let held = File::open(alive.join(".lock")).unwrap();
    held.lock().unwrap();

    assert!(write().unwrap_err().to_string().contains("another process is writing it"));
    drop(held);
    write().unwrap();
    Checkpoint::open(&target).unwrap();
    assert!(!dead.exists() && !alive.exists() && !other.exists());
    for kept in [&renamed, &moved, &locked_away] {
        assert!(kept.join("rank-0-of-2.safetensors").exists(), "{kept:?}");
    }
    assert_eq!(fs::read(precious.join("file")).unwrap(), b"precious");
    assert_eq!(fs::read_link(linked).unwrap(), precious);
}

#[test]
fn what_is_planted_where_shards_will_be_is_not_touched() {
    let source = checkpoint("faults-planted.gguf", Llama { layers: 2, ..TINY });
    let (target, precious) = (absent("faults-planted"), absent("faults-planted-precious"));
    fs::create_dir(&precious).unwrap();
    let _ = fs::remove_file(&target);
    // A link to an empty folder, made before and while the shards are cut.
    for early in [true, false] {
        let plant = || std::os::unix::fs::symlink(&precious, &target).unwrap();
        if early {
            plant();
        }
        let outcome = shards::write(&source, 2, &target, |_| {
            if target.symlink_metadata().is_err() {
                plant();
            }
            true
        });
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("faults-planted: it is there already"), "{error}");
        assert_eq!(fs::read_link(&target).unwrap(), precious);
        assert_eq!(fs::read_dir(&precious).unwrap().count(), 0);
        assert!(partials("faults-planted").is_empty());
        fs::remove_file(&target).unwrap();
    }
}

//! `binfer shard`, and what is served from shards: the same bits, with the checkpoint gone.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use binfer_shard::Checkpoint;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Golden, Permit, Run, Scratch, Server, binfer, goldens, model_path, repository, send_signal,
};
use crate::rig::{TOKENS_PER_STEP, on_ranks_of};

const SETTINGS: i32 = 78;

/// Cuts a checkpoint; the folder.
fn cut(model: &str, scratch: &Scratch, tp: &str) -> String {
    let folder = scratch.arg(&format!("tp{tp}"));
    let run = Run::good(&["shard", model, "-o", &folder, "--tp", tp]);
    assert!(run.stdout.contains(&format!("{tp} rank(s) written")), "{run:?}");
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Bits of the logits after a prompt, and the tokens that follow.
fn answers(path: &Path, world: usize, goldens: &[&Golden]) -> Vec<(Vec<u32>, Vec<u32>)> {
    on_ranks_of(path, world, |rig| {
        let answer = |golden: &&Golden| {
            let (logits, first) = rig.feed(0, &golden.prompt_ids, TOKENS_PER_STEP);
            let mut ids = vec![first];
            ids.extend((1..8).map(|_| rig.step(&[(0, None)]).remove(0).1));
            rig.close(0);
            (logits.iter().map(|logit| logit.to_bits()).collect(), ids)
        };
        goldens.iter().map(answer).collect()
    })
}

#[test]
fn shards_of_the_demo_model_give_the_bits_of_its_checkpoint_at_every_rank_count() {
    let _permit = Permit::one();
    let scratch = Scratch::new("shards-bits");
    let all = goldens();
    let named = |name: &str| all.iter().find(|golden| golden.name == name).unwrap();
    let goldens = ["once", "emoji", "chat-stop"].map(named);
    for world in 1..=4 {
        let folder = cut("demo", &scratch, &world.to_string());
        let sharded = answers(Path::new(&folder), world, &goldens);
        assert!(sharded == answers(&model_path(), world, &goldens), "TP {world}: other bits");
        for (golden, (_, ids)) in goldens.iter().zip(&sharded) {
            assert_eq!(ids[..], golden.ids[..8], "{}, TP {world}", golden.name);
        }
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn shards_answer_when_their_checkpoint_is_gone() {
    let scratch = Scratch::new("shards-alone");
    let golden = fs::read_to_string(repository("tests/fixtures/tiny/qwen3/golden.json")).unwrap();
    let chat = &serde_json::from_str::<Value>(&golden).unwrap()["chat"];
    // The fixture lies elsewhere, and is not named like the copy that is cut.
    let checkpoint = scratch.file("checkpoint");
    fs::create_dir(&checkpoint).unwrap();
    for name in names(&repository("tests/fixtures/tiny/qwen3")) {
        let from = repository("tests/fixtures/tiny/qwen3").join(&name);
        fs::copy(from, checkpoint.join(name)).unwrap();
    }
    let folder = cut(checkpoint.to_str().unwrap(), &scratch, "2");
    fs::remove_dir_all(&checkpoint).unwrap();
    let mut server = Server::of(&folder, Permit::one(), 2, &[]);
    server.wait_until_ready();
    let body = json!({ "messages": chat["messages"], "max_tokens": 24, "temperature": 0 });
    let reply = server.client.post("/v1/chat/completions", &body).unwrap();
    assert_eq!(reply.text(), chat["generated"].as_str().unwrap(), "{reply:?}");
    server.stop();

    // A GGUF file, whose tokenizer goes along as metadata. The rank count is that of the shards.
    let _permit = Permit::one();
    let checkpoint = scratch.arg("copy.gguf");
    fs::copy(model_path(), &checkpoint).unwrap();
    let folder = cut(&checkpoint, &scratch, "3");
    fs::remove_file(&checkpoint).unwrap();
    let golden = goldens().into_iter().find(|golden| golden.name == "chat-stop").unwrap();
    let question = &golden.chat()[0].content;
    let run = Run::good(&["run", &folder, question, "--use-template"]);
    assert_eq!(run.stdout, golden.generated);
    assert!(run.stderr.contains("3 rank(s)"), "{run:?}");
}

/// Runs a command that must be refused.
fn refused(args: &[&str], words: &[&str]) {
    let run = Run::of(args);
    assert_eq!(run.status.code(), Some(SETTINGS), "{args:?}: {run:?}");
    for word in words {
        assert!(run.stderr.contains(word), "{args:?}: no {word:?} in: {}", run.stderr);
    }
}

#[test]
fn what_does_not_match_is_refused_with_the_way_out() {
    let _permit = Permit::one();
    let scratch = Scratch::new("shards-refused");
    let tiny = repository("tests/fixtures/tiny/qwen3");
    let tiny = tiny.to_str().unwrap();
    let folder = cut(tiny, &scratch, "2");
    refused(
        &["run", &folder, "x", "--tp", "4"],
        &["holds shards for --tp 2", "binfer shard MODEL -o NEW_DIR --tp 4"],
    );
    refused(
        &["run", &folder, "x", "--shard-cache", "x"],
        &["--shard-cache", "holds shards already"],
    );
    refused(&["shard", tiny, "-o", &folder, "--tp", "2"], &["it is there already"]);
    refused(&["shard", &folder, "-o", "x", "--tp", "2"], &["made of shards already"]);
    refused(&["shard", tiny, "-o", &scratch.arg("no"), "--tp", "9"], &["query heads", "--tp"]);
    let run = Run::good(&["shard", tiny, "-o", &folder, "--verify"]);
    assert!(run.stdout.contains("2 rank(s) verified"), "{run:?}");
    let other = repository("tests/fixtures/tiny/qwen3-yarn");
    let words = ["manifest.json", "another checkpoint"];
    refused(&["shard", other.to_str().unwrap(), "-o", &folder, "--verify"], &words);
    fs::remove_file(scratch.file("tp2").join("rank-1-of-2.safetensors")).unwrap();
    refused(&["run", &folder, "x"], &["rank-1-of-2.safetensors", "it is missing"]);
}

#[test]
fn a_dry_run_says_what_each_rank_would_hold_and_writes_nothing() {
    let _permit = Permit::one();
    let listing = Run::good(&["shard", "demo", "--tp", "2", "--dry-run"]).stdout;
    // "rank 0 of 2: N bytes" and "  NAME TYPE [ROWS, COLUMNS] N bytes".
    let number = |line: &str| line.rsplit(' ').nth(1).unwrap().parse::<u64>().unwrap();
    let (ranks, lines): (Vec<&str>, Vec<&str>) =
        listing.lines().partition(|line| line.starts_with("rank "));
    let bytes: Vec<u64> = ranks.into_iter().map(number).collect();
    let parts: u64 = lines.into_iter().map(number).sum();
    assert_eq!((bytes.len(), bytes.iter().sum::<u64>()), (2, parts), "{listing}");
    let weights = fs::metadata(model_path()).unwrap().len();
    assert!(parts > weights * 9 / 10 && parts < weights * 11 / 10, "{parts} of {weights}");
    assert!(listing.contains("  blk.29.ffn_down.weight Q4_1 [576, 832] 299520 bytes"), "{listing}");
}

/// A limit on the size of files stands for a disk that is full.
#[test]
fn a_full_disk_leaves_no_half_folder() {
    let _permit = Permit::one();
    let scratch = Scratch::new("shards-full");
    let folder = scratch.arg("shards");
    let command = "trap '' XFSZ; ulimit -f 20000; exec \"$0\" shard demo -o \"$1\" --tp 2";
    let binfer = env!("CARGO_BIN_EXE_binfer");
    let output = std::process::Command::new("sh")
        .args(["-c", command, binfer, &folder])
        .env("BINFER_CACHE", model_path().parent().unwrap())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(SETTINGS), "{log}");
    assert!(log.contains("rank-0-of-2.safetensors") && log.contains("too large"), "{log}");
    assert_eq!(names(scratch.path()), Vec::<String>::new());
}

#[test]
fn an_interrupted_cut_leaves_no_half_folder() {
    let _permit = Permit::one();
    let scratch = Scratch::new("shards-interrupted");
    let folder = scratch.arg("shards");
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut shard = binfer()
            .args(["shard", "demo", "-o", &folder, "--tp", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while names(scratch.path()).is_empty() && shard.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        send_signal(shard.id(), signal);
        let output = shard.wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            fs::remove_dir_all(&folder).unwrap(); // it was faster
        } else {
            assert_eq!(output.status.code(), Some(status), "{log}");
            assert!(log.contains("interrupted"), "{log}");
        }
        assert_eq!(names(scratch.path()), Vec::<String>::new());
    }
}

#[test]
fn a_cache_is_filled_used_and_ignored_when_it_does_not_match() {
    let _permit = Permit::one();
    let scratch = Scratch::new("shards-cache");
    let cache = scratch.arg("cache");
    let tiny = repository("tests/fixtures/tiny/qwen3");
    let run = |model: &Path, tp: &str| {
        let model = model.to_str().unwrap();
        let sizes = ["--max-tokens", "8", "--tp", tp, "-v", "--shard-cache", &cache];
        Run::good(&[&["run", model, "How many ships?"], &sizes[..]].concat())
    };
    let first = run(&tiny, "2");
    assert!(first.stderr.contains("shards written"), "{first:?}");
    let entries = names(Path::new(&cache));
    assert_eq!(entries.len(), 1, "{entries:?}");
    let second = run(&tiny, "2");
    assert!(!second.stderr.contains("shards written"), "{second:?}");
    assert_eq!((second.stdout, names(Path::new(&cache))), (first.stdout.clone(), entries.clone()));
    // Damage in the weights is noticed by whoever loads them: so they were loaded from there.
    let entry = Path::new(&cache).join(&entries[0]);
    let shard = entry.join("rank-1-of-2.safetensors");
    let good = fs::read(&shard).unwrap();
    let mut bytes = good.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let args = ["run", tiny.to_str().unwrap(), "x", "--tp", "2", "--shard-cache", &cache];
    let damaged = Run::of(&args);
    assert_eq!(damaged.status.code(), Some(70), "{damaged:?}");
    let says = "rank-1-of-2.safetensors: model.norm.weight of rank 1: its bytes are not those";
    assert!(damaged.stderr.contains(says), "{damaged:?}");

    fs::write(&shard, &good[..good.len() - 1]).unwrap();
    let cut_short = run(&tiny, "2");
    let said = cut_short.stderr.contains(": ignored; remove it to have it written anew");
    assert!(said && cut_short.stderr.contains("1 bytes short"), "{cut_short:?}");
    assert_eq!(cut_short.stdout, first.stdout);
    assert_eq!(fs::metadata(&shard).unwrap().len(), good.len() as u64 - 1, "overwritten");

    // The place of an entry, but shards for other ranks in it.
    run(&tiny, "1");
    let one = names(Path::new(&cache)).into_iter().find(|name| *name != entries[0]).unwrap();
    fs::remove_dir_all(&entry).unwrap();
    fs::rename(Path::new(&cache).join(one), &entry).unwrap();
    let fourth = run(&tiny, "2");
    assert!(fourth.stderr.contains("is for other ranks: ignored"), "{fourth:?}");
    assert_eq!(fourth.stdout, first.stdout);
}

#[test]
fn a_cache_entry_of_a_gguf_file_is_ignored_once_the_file_has_changed() {
    let _permit = Permit::one();
    let scratch = Scratch::new("shards-changed-gguf");
    let (cache, model) = (scratch.arg("cache"), scratch.file("model.gguf"));
    fs::copy(model_path(), &model).unwrap();
    let run = |flags: &[&str]| {
        let args = ["run", model.to_str().unwrap(), "ships", "--max-tokens", "1", "-v"];
        Run::good(&[&args[..], &["--shard-cache", &cache], flags].concat()).stderr
    };
    assert!(run(&[]).contains("shards written"));
    assert!(!run(&[]).contains("--shard-cache"));

    // The same bytes in another file, then another byte outside of the sample that names the entry.
    let copy = scratch.file("copy");
    fs::copy(&model, &copy).unwrap();
    fs::rename(&copy, &model).unwrap();
    let said = run(&[]);
    let why = "model.gguf (time of change, inode) changed since it was cut";
    assert!(said.contains(why) && said.contains("--shard-cache-verify finds out"), "{said}");
    assert!(run(&["--shard-cache-verify"]).contains("shards verified"));
    let source = Checkpoint::open(&model).unwrap();
    let tensor = source.gguf().unwrap().tensor("token_embd.weight").unwrap();
    let file = fs::File::options().read(true).write(true).open(&model).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, tensor.offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], tensor.offset).unwrap();
    let said = run(&["--shard-cache-verify"]);
    assert!(said.contains("its bytes are not those that the entry was cut from"), "{said}");
    assert_eq!(names(Path::new(&cache)).len(), 1, "written anew");
}

#[test]
fn a_cache_entry_is_ignored_once_its_checkpoint_has_changed() {
    let _permit = Permit::one();
    let scratch = Scratch::new("shards-changed");
    let (cache, model) = (scratch.arg("cache"), scratch.file("model"));
    let tiny = repository("tests/fixtures/tiny/qwen3");
    fs::create_dir(&model).unwrap();
    for name in names(&tiny) {
        fs::copy(tiny.join(&name), model.join(name)).unwrap();
    }
    let run = |flags: &[&str]| {
        let args = ["run", model.to_str().unwrap(), "ships", "--max-tokens", "2", "-v"];
        Run::good(&[&args[..], &["--shard-cache", &cache], flags].concat()).stderr
    };
    assert!(run(&[]).contains("shards written"));
    let entry = Path::new(&cache).join(&names(Path::new(&cache))[0]);
    let written = fs::metadata(entry.join("manifest.json")).unwrap().modified().unwrap();
    assert!(!run(&[]).contains("--shard-cache"));

    // The same bytes at another time and place: only reading them can tell.
    let weights = model.join("model.safetensors");
    let copy = scratch.file("copy");
    fs::copy(&weights, &copy).unwrap();
    fs::rename(&copy, &weights).unwrap();
    let said = run(&[]);
    let why = "model.safetensors (time of change, inode) changed since it was cut";
    assert!(said.contains(why) && said.contains("--shard-cache-verify finds out"), "{said}");
    let said = run(&["--shard-cache-verify"]);
    assert!(said.contains("shards verified") && !said.contains("ignored"), "{said}");
    // Other bytes, outside of the sample that names the entry.
    let bytes = fs::metadata(&weights).unwrap().len();
    let file = fs::File::options().read(true).write(true).open(&weights).unwrap();
    let header = &mut [0; 8];
    file.read_exact_at(header, 0).unwrap();
    let first = 8 + u64::from_le_bytes(*header);
    assert!(first < bytes);
    let mut byte = [0];
    file.read_exact_at(&mut byte, first).unwrap();
    file.write_all_at(&[byte[0] ^ 1], first).unwrap();
    let said = run(&["--shard-cache-verify"]);
    assert!(said.contains("its bytes are not those that the entry was cut from"), "{said}");
    file.write_all_at(&byte, first).unwrap();

    for (name, text) in
        [("generation_config.json", "{\"top_p\": 0.5}"), ("chat_template.jinja", "x")]
    {
        let path = model.join(name);
        let good = fs::read(&path).ok();
        fs::write(&path, text).unwrap();
        let said = run(&["--shard-cache-verify"]);
        assert!(
            said.contains(&format!("{name} changed since it was cut: ignored; remove it")),
            "{said}"
        );
        match good {
            Some(good) => fs::write(path, good).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }
    assert!(run(&["--shard-cache-verify"]).contains("shards verified"));
    let now = fs::metadata(entry.join("manifest.json")).unwrap().modified().unwrap();
    assert_eq!((now, names(Path::new(&cache)).len()), (written, 1), "written anew");
}

//! Processes as `/proc` shows them: a cluster's workers, their threads, whether they live.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

/// Ranks and processes of the workers that the coordinator `parent` started, by rank.
pub(crate) fn workers_of(parent: u32) -> Vec<(usize, u32)> {
    let parent = parent.to_string();
    let mut found: Vec<(usize, u32)> = (fs::read_dir("/proc").unwrap().flatten())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((worker_rank(pid, &parent)?, pid)))
        .collect();
    found.sort_unstable();
    found
}

/// The text process that `parent` started.
pub(crate) fn text_process_of(parent: u32) -> Option<u32> {
    let parent = parent.to_string();
    let mut pids = (fs::read_dir("/proc").unwrap().flatten())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| role_of(*pid, "text", &parent).is_some())
}

/// The rank of `pid` if it is a worker of `parent`.
fn worker_rank(pid: u32, parent: &str) -> Option<usize> {
    let words = role_of(pid, "worker", parent)?;
    words.iter().skip_while(|word| *word != "--rank").nth(1)?.parse().ok()
}

/// The command line of `pid` if `parent` gave it this role. A process that ended has none.
fn role_of(pid: u32, role: &str, parent: &str) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0);
    let words: Vec<String> =
        words.filter_map(|word| String::from_utf8(word.to_vec()).ok()).collect();
    let of_parent = words.windows(2).any(|pair| pair == ["--parent", parent]);
    (words.get(1).is_some_and(|word| word == role) && of_parent).then_some(words)
}

/// Whether the process runs or is stopped; a zombie is not alive.
pub(crate) fn is_alive(pid: u32) -> bool {
    state(&format!("/proc/{pid}/stat")).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Whether a thread sleeps until somebody wakes it.
pub(crate) fn is_waiting(pid: u32, thread: u32) -> bool {
    state(&format!("/proc/{pid}/task/{thread}/stat")) == Some('S')
}

/// The thread of this name that was started last.
pub(crate) fn newest_thread_named(pid: u32, name: &str) -> Option<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let named = |thread: &u32| {
        fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm"))
            .is_ok_and(|comm| comm.trim_end() == name)
    };
    tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()).filter(named).max()
}

/// Whether the process has a file mapped whose name contains `name`.
pub(crate) fn maps(pid: u32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(name))
}

/// What the cluster of `pid` left in the folders of sockets and of shared memory.
pub(crate) fn traces(pid: u32) -> Vec<PathBuf> {
    let within = |folder: &str, part: &str| {
        let entries =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let named = |path: &PathBuf| path.to_string_lossy().contains(part);
        entries.filter(named).collect::<Vec<_>>()
    };
    let mine = format!("/binfer-{pid}-");
    let mut found = within("/tmp", &mine);
    found.extend(std::env::var("XDG_RUNTIME_DIR").map_or(Vec::new(), |dir| within(&dir, &mine)));
    found.extend(within("/dev/shm", "binfer"));
    found
}

/// Sends a signal; whether there was somebody to send it to.
pub(crate) fn send_signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The letter after the name, which may itself hold anything.
fn state(path: &str) -> Option<char> {
    fs::read_to_string(path).ok()?.rsplit_once(") ")?.1.chars().next()
}

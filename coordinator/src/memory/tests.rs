//! Limits read out of trees of files as kernels show them, and what they leave for a model.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use binfer_shard::Checkpoint;
use binfer_shard::fit::{FitLimits, KvBudget, Memory};

use super::available::mib;
use super::budget::HostBudget;
use super::cluster::UNKNOWN_BYTES;
use super::process::available_to_process;
use super::*;

const MIB: u64 = 1 << 20;

/// A root of a test's own, gone with it.
struct Tree(PathBuf);

impl Tree {
    /// With so much free memory, and these files.
    fn new(available_mib: u64, files: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("binfer-memory-{}-{number}", std::process::id());
        let tree = Self(std::env::temp_dir().join(name));
        let kib = available_mib * 1024;
        let meminfo = format!("MemTotal:  99999999 kB\nMemAvailable:   {kib} kB\nBuffers: 0 kB\n");
        tree.write("proc/meminfo", &meminfo);
        files.iter().for_each(|(path, text)| tree.write(path, text));
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn bytes(&self, path: &str, mib: u64) {
        self.write(path, &format!("{}\n", mib * MIB));
    }

    fn files(&self) -> KernelFiles {
        KernelFiles::at(&self.0)
    }

    /// MiB that may be taken, and the limit.
    fn shared(&self) -> (u64, String) {
        let available = available_to_cluster(&self.files());
        (mib(available.bytes), available.limit.unwrap_or_default())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const MOUNT_2: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
    30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

/// A group of version 2 two levels below the root's.
fn version_2() -> Tree {
    Tree::new(
        8000,
        &[
            ("proc/self/cgroup", "0::/pods/pod 1/main\n"),
            ("proc/self/mountinfo", MOUNT_2),
            ("sys/fs/cgroup/pods/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/memory.high", "max\n"),
            ("sys/fs/cgroup/pods/pod 1/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/pod 1/main/memory.max", "max\n"),
        ],
    )
}

#[test]
fn without_limits_it_is_what_the_machine_has() {
    assert_eq!(Tree::new(8000, &[]).shared(), (8000, String::new()));
    assert_eq!(version_2().shared(), (8000, String::new()));
    assert_eq!(available_to_process(&version_2().files(), 2), None);
    let empty = available_to_cluster(&KernelFiles::at("/nowhere/at/all"));
    assert_eq!(empty, AvailableMemory { bytes: UNKNOWN_BYTES, limit: None });
}

#[test]
fn the_smallest_limit_on_the_way_to_the_root_counts_with_what_is_used_there() {
    let tree = version_2();
    tree.bytes("sys/fs/cgroup/pods/pod 1/main/memory.max", 4000);
    tree.bytes("sys/fs/cgroup/pods/pod 1/main/memory.current", 300);
    let name = |file: &str, mib: u64| format!("{file}, {mib} MiB");
    let main = name("memory.max of /sys/fs/cgroup/pods/pod 1/main", 4000);
    assert_eq!(tree.shared(), (3700, main));
    // Its parent allows more, but somebody else has taken most of that.
    tree.bytes("sys/fs/cgroup/pods/memory.max", 6000);
    tree.bytes("sys/fs/cgroup/pods/memory.current", 5000);
    assert_eq!(tree.shared(), (1000, name("memory.max of /sys/fs/cgroup/pods", 6000)));
    // Pages of files go when the memory is needed.
    let stat = format!("anon 5\ninactive_file {}\nactive_file {}\nfile_dirty 7\n", MIB, MIB * 2);
    tree.write("sys/fs/cgroup/pods/memory.stat", &stat);
    assert_eq!(tree.shared().0, 1003);
    tree.bytes("sys/fs/cgroup/pods/pod 1/memory.high", 500);
    assert_eq!(tree.shared(), (500, name("memory.high of /sys/fs/cgroup/pods/pod 1", 500)));
    // Less is free than any limit leaves.
    tree.write("proc/meminfo", "MemAvailable: 102400 kB\n");
    assert_eq!(tree.shared(), (100, String::new()));
    // More is taken than a limit that was set later allows.
    tree.bytes("sys/fs/cgroup/pods/pod 1/main/memory.current", 9000);
    assert_eq!(tree.shared().0, 0);
}

#[test]
fn version_1_has_its_own_names_and_a_limit_of_groups_that_are_not_seen() {
    let mount = "32 31 0:30 /docker/a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new(
        8000,
        &[
            ("proc/self/cgroup", "12:pids:/\n5:cpu,memory:/docker/a/inner\n0::/docker/a\n"),
            ("proc/self/mountinfo", mount),
            ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "9223372036854771712\n"),
        ],
    );
    assert_eq!(tree.shared(), (8000, String::new()));
    let inner = "sys/fs/cgroup/memory/inner/memory";
    tree.bytes("sys/fs/cgroup/memory/memory.limit_in_bytes", 3000);
    tree.bytes("sys/fs/cgroup/memory/memory.usage_in_bytes", 500);
    tree.bytes(&format!("{inner}.usage_in_bytes"), 400);
    let limit = "memory.limit_in_bytes of /sys/fs/cgroup/memory, 3000 MiB";
    assert_eq!(tree.shared(), (2500, limit.to_owned()));
    let stat = format!(
        "hierarchical_memory_limit {}\ninactive_file 0\ntotal_inactive_file {}\n",
        2000 * MIB,
        MIB * 100
    );
    tree.write(&format!("{inner}.stat"), &stat);
    let limit = "hierarchical_memory_limit of /sys/fs/cgroup/memory/inner, 2000 MiB";
    assert_eq!(tree.shared(), (1700, limit.to_owned()));
}

#[test]
fn a_container_whose_path_is_not_what_is_mounted_reads_what_is() {
    let outside = "0::/../../system.slice/x\n";
    for path in [outside, "0::/\n", "0::/kubepods/elsewhere\n"] {
        let mount = MOUNT_2.replace("0:26 / ", "0:26 /kubepods/pod ");
        let files = [("proc/self/cgroup", path), ("proc/self/mountinfo", &mount)];
        let tree = Tree::new(8000, &files);
        tree.bytes("sys/fs/cgroup/memory.max", 1000);
        assert_eq!(tree.shared().0, 1000, "{path}");
    }
}

#[test]
fn the_mount_that_holds_the_process_is_read_where_there_are_several() {
    let other = "29 24 0:26 /pods/other /mnt/other rw - cgroup2 cgroup2 rw\n";
    let tree = version_2();
    tree.write("proc/self/mountinfo", &(other.to_owned() + MOUNT_2));
    tree.bytes("mnt/other/memory.max", 100);
    tree.bytes("sys/fs/cgroup/pods/memory.max", 900);
    assert_eq!(tree.shared().0, 900);
}

#[test]
fn limits_of_a_process_leave_room_for_what_it_takes_beside_tensors() {
    let limits = |space: &str, data: &str| {
        let text = format!(
            "Limit           Soft Limit  Hard Limit  Units\n\
             Max data size             {data}   unlimited   bytes\n\
             Max address space         {space}   unlimited   bytes\n"
        );
        let tree = Tree::new(8000, &[("proc/self/limits", &text)]);
        available_to_process(&tree.files(), 2)
            .map(|available| (mib(available.bytes), available.limit.unwrap()))
    };
    assert_eq!(limits("unlimited", "unlimited"), None);
    let space = limits("1048576000", "unlimited").unwrap();
    assert_eq!(space, (1000 - 256 - 160, "ulimit -v, 1000 MiB".to_owned()));
    let both = limits("1048576000", "524288000").unwrap();
    assert_eq!(both, (500 - 48 - 16, "ulimit -d, 500 MiB".to_owned()));
    assert_eq!(limits("1000", "unlimited").unwrap().0, 0);
}

#[test]
fn kills_for_want_of_memory_are_told_from_others() {
    let tree = version_2();
    let events = "sys/fs/cgroup/pods/pod 1/main/memory.events";
    tree.write(events, "low 0\noom 4\noom_kill 3\n");
    let kills = OomKills::from_now_on(tree.files());
    assert_eq!(kills.cause(), None);
    tree.bytes("sys/fs/cgroup/pods/pod 1/main/memory.max", 500);
    tree.write(events, "low 0\noom 5\noom_kill 4\noom_group_kill 0\n");
    let cause = kills.cause().unwrap();
    assert!(cause.contains("memory.max of /sys/fs/cgroup/pods/pod 1/main, 500 MiB"), "{cause}");
    assert!(cause.contains("fewer --kv-cache-tokens"), "{cause}");
    // A kernel, or a group, that does not count.
    fs::remove_file(tree.0.join(events)).unwrap();
    assert_eq!(kills.cause(), None);
    assert_eq!(OomKills::from_now_on(Tree::new(1, &[]).files()).cause(), None);

    let mount = "32 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let files = [("proc/self/cgroup", "5:memory:/a\n"), ("proc/self/mountinfo", mount)];
    let tree = Tree::new(800, &files);
    let control = "sys/fs/cgroup/memory/a/memory.oom_control";
    tree.write(control, "oom_kill_disable 1\nunder_oom 0\noom_kill 0\n");
    let kills = OomKills::from_now_on(tree.files());
    assert_eq!(kills.cause(), None);
    tree.write(control, "oom_kill_disable 1\nunder_oom 0\noom_kill 1\n");
    assert!(kills.cause().unwrap().contains("the machine's"));
}

/// What is said of a cache of so many tokens, and tokens of the cache where nothing is asked for.
fn fits(tree: &Tree, world: u32, asked: Option<u64>) -> Result<u64, String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny/qwen3");
    let source = Checkpoint::open(Path::new(folder)).unwrap();
    let budget = HostBudget::of(&tree.files(), 1);
    let spec = source.spec();
    let layouts = binfer_shard::layouts(spec, world).unwrap();
    let bytes = binfer_shard::fit::kv_position_bytes(spec, &layouts[0], 4);
    let limits = FitLimits {
        memory: Memory::Host(budget.memory()),
        kv_budget: KvBudget::from(asked.map(|tokens| tokens * bytes)),
        kv_element_bytes: 4,
        context_max: 512,
        sequences_max: 4096,
        kv_tokens_max: 512 * 4096,
        tokens_per_step_max: 4096,
    };
    budget.check(spec, world, &limits, asked).map_err(|error| error.to_string())?;
    Ok(binfer_shard::fit::Ledger::new(spec, world, &limits).unwrap().kv_tokens)
}

#[test]
fn a_cache_that_does_not_fit_is_refused_with_numbers_and_the_way_out() {
    let tree = version_2();
    let max = "sys/fs/cgroup/pods/memory.max";
    // A quarter of what is free, or of what a limit leaves, is for the cache.
    assert_eq!(fits(&tree, 1, None), Ok(8000 / 4 * MIB / 1024));
    tree.bytes(max, 400);
    let quarter = fits(&tree, 1, None).unwrap();
    assert!(quarter.abs_diff(100 * MIB / 1024) <= 64, "{quarter}");
    // More may be asked for, up to what a tenth that stays free, processes and tensors leave.
    assert_eq!(fits(&tree, 1, Some(2 * quarter)), Ok(2 * quarter));
    let words = fits(&tree, 1, Some(4 * quarter)).unwrap_err();
    let most: u64 = words.split_once(": ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!(words.contains("memory.max of /sys/fs/cgroup/pods, 400 MiB"), "{words}");
    assert!(words.contains("give fewer"), "{words}");
    assert_eq!(fits(&tree, 1, Some(most)), Ok(most.next_multiple_of(64)));
    assert!(fits(&tree, 1, Some(most + 1)).is_err());
    // Ranks share the limit, and each has its own process.
    assert!(fits(&tree, 4, Some(most)).is_err());
    // What is free counts even where nothing is limited.
    let small = Tree::new(400, &[]);
    assert!(fits(&small, 1, Some(4 * quarter)).unwrap_err().contains("400 MiB are free"));
}

#[test]
fn a_limit_that_holds_no_cache_at_all_refuses_the_model() {
    let tree = version_2();
    tree.bytes("sys/fs/cgroup/pods/memory.max", 50);
    let words = fits(&tree, 1, None).unwrap_err();
    assert!(words.starts_with("the model does not fit; there are 50 MiB"), "{words}");
    // An estimate of what is free is no limit.
    assert!(fits(&Tree::new(50, &[]), 1, None).is_ok());
    let limits = format!("Max address space {} unlimited bytes\n", 400 * MIB);
    let tree = Tree::new(8000, &[("proc/self/limits", &limits)]);
    let few = fits(&tree, 1, Some(512 * 4096)).unwrap_err();
    assert!(few.contains("64 MiB for the tensors of a rank (ulimit -v, 400 MiB)"), "{few}");
}

//! The memory cgroup of this process, of version 2 or 1, with all groups around it.
//!
//! Where it is follows from /proc/self/cgroup (its path in the hierarchy) and /proc/self/mountinfo
//! (which part of the hierarchy is mounted where). In a container the two may not fit together; then
//! what is mounted is the container's own group.

use std::path::{Component, Path, PathBuf};

use super::{AvailableMemory, mib, read, value_of};

/// Version 1 writes a limit near 2^63 where there is none.
const UNLIMITED: u64 = 1 << 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A process's group and those around it.
#[derive(Clone, Debug)]
pub(super) struct MemoryCgroup {
    version: Version,
    /// Folders as they are named to people, the process's own first.
    levels: Vec<PathBuf>,
    /// Before these.
    root: PathBuf,
}

impl MemoryCgroup {
    /// None where no memory controller is mounted.
    pub(super) fn of_this_process(root: &Path) -> Option<Self> {
        let groups = read(&root.join("proc/self/cgroup"));
        let mounts = read(&root.join("proc/self/mountinfo"));
        // A line is `number:controllers:path`; version 2 is number 0 and names no controllers. A
        // controller is in one hierarchy only.
        let lines = || groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let of_one = lines().find(|(names, _)| names.split(',').any(|name| name == "memory"));
        let (version, path) = match of_one {
            Some((_, path)) => (Version::One, path),
            None => (Version::Two, lines().find(|(names, _)| names.is_empty())?.1),
        };
        let mounts = mounts.lines().filter_map(Mount::parse).filter(|mount| mount.is_of(version));
        let mounts: Vec<Mount> = mounts.collect();
        let path = Path::new(path);
        // Other parts may be mounted, too, for other containers.
        let own = mounts.iter().find(|mount| path.starts_with(&mount.part));
        let levels = own.or(mounts.first())?.levels(path);
        Some(Self { version, levels, root: root.to_owned() })
    }

    /// What the smallest limit around the process leaves; none where none is set.
    pub(super) fn room(&self) -> Option<AvailableMemory> {
        self.levels.iter().filter_map(|level| self.room_of(level)).min_by_key(|room| room.bytes)
    }

    fn room_of(&self, level: &Path) -> Option<AvailableMemory> {
        let text = |file: &str| self.text(level, file);
        let limit = |file: &str| Some((text(file).trim().parse::<u64>().ok()?, file.to_owned()));
        let stat = text("memory.stat");
        let (limits, used, reclaimable) = match self.version {
            Version::Two => (
                [limit("memory.max"), limit("memory.high")],
                "memory.current",
                ["inactive_file ", "active_file ", "slab_reclaimable "],
            ),
            Version::One => {
                // Groups around it that are not mounted here count in this one alone.
                let all = value_of(&stat, "hierarchical_memory_limit ");
                let all = all.map(|bytes| (bytes, "hierarchical_memory_limit".to_owned()));
                (
                    [limit("memory.limit_in_bytes"), all],
                    "memory.usage_in_bytes",
                    ["total_inactive_file ", "total_active_file ", "total_slab_reclaimable "],
                )
            }
        };
        let limits = limits.into_iter().flatten().filter(|(bytes, _)| *bytes < UNLIMITED);
        let (bytes, file) = limits.min_by_key(|(bytes, _)| *bytes)?;
        // Pages of files count as used, and go when somebody needs the memory.
        let files = reclaimable.iter().filter_map(|key| value_of(&stat, key));
        let used = text(used).trim().parse::<u64>().unwrap_or(0);
        let used = used.saturating_sub(files.fold(0, u64::saturating_add));
        Some(AvailableMemory {
            bytes: bytes.saturating_sub(used),
            limit: Some(format!("{file} of {}, {} MiB", level.display(), mib(bytes))),
        })
    }

    /// Processes of the group that the kernel killed for want of memory, since the group is there.
    pub(super) fn oom_kills(&self) -> Option<u64> {
        let file = match self.version {
            Version::Two => "memory.events",
            Version::One => "memory.oom_control",
        };
        value_of(&self.text(self.levels.first()?, file), "oom_kill ")
    }

    fn text(&self, level: &Path, file: &str) -> String {
        read(&below(&self.root, level).join(file))
    }
}

/// A mounted part of a hierarchy.
struct Mount {
    /// What is mounted, as a path in the hierarchy.
    part: PathBuf,
    /// Where.
    point: PathBuf,
    fs: String,
    options: String,
}

impl Mount {
    /// A line of mountinfo: `id parent device part point options [fields] - type source options`.
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        Some(Self {
            part: unescaped(before.next()?),
            point: unescaped(before.next()?),
            fs: after.next()?.to_owned(),
            options: after.nth(1)?.to_owned(),
        })
    }

    fn is_of(&self, version: Version) -> bool {
        match version {
            Version::One => {
                self.fs == "cgroup" && self.options.split(',').any(|option| option == "memory")
            }
            Version::Two => self.fs == "cgroup2",
        }
    }

    /// The folder of the group at `path` and those around it, as far as they are mounted.
    fn levels(&self, path: &Path) -> Vec<PathBuf> {
        let inside = path.strip_prefix(&self.part).ok();
        let inside = inside.filter(|path| path.components().all(is_plain));
        let own = inside.map_or_else(|| self.point.clone(), |inside| self.point.join(inside));
        let levels = own.ancestors().take_while(|level| level.starts_with(&self.point));
        levels.map(Path::to_owned).collect()
    }
}

fn is_plain(component: Component<'_>) -> bool {
    matches!(component, Component::Normal(_))
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescaped(field: &str) -> PathBuf {
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    plain.iter().fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain)).into()
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

//! The memory cgroup of this process, of version 2 or 1, with all cgroups around it.
//!
//! /proc/self/cgroup has its path in the hierarchy, and /proc/self/mountinfo says which part of the
//! hierarchy is mounted where. In a container the two may not fit together; what is mounted is then
//! the container's own cgroup.

use std::path::{Component, Path, PathBuf};

use super::available::{AvailableMemory, mib};
use super::kernel_files::{KernelFiles, value_of};

/// Version 1 writes a limit near 2^63 where there is none.
const UNLIMITED: u64 = 1 << 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CgroupVersion {
    One,
    Two,
}

/// A process's memory cgroup and those around it.
#[derive(Clone, Debug)]
pub(super) struct MemoryCgroup {
    version: CgroupVersion,
    /// The cgroups' folders, the process's own first.
    levels: Vec<PathBuf>,
    files: KernelFiles,
}

impl MemoryCgroup {
    /// The cgroup of this process; `None` where no memory controller is mounted.
    pub(super) fn of_this_process(files: &KernelFiles) -> Option<Self> {
        let groups = files.read("/proc/self/cgroup");
        let mounts = files.read("/proc/self/mountinfo");
        // A line is `number:controllers:path`; version 2 is number 0 and names no controllers. A
        // controller is in one hierarchy only.
        let lines = || groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let of_one = lines().find(|(names, _)| names.split(',').any(|name| name == "memory"));
        let (version, path) = match of_one {
            Some((_, path)) => (CgroupVersion::One, path),
            None => (CgroupVersion::Two, lines().find(|(names, _)| names.is_empty())?.1),
        };
        let mounts = mounts.lines().filter_map(Mount::parse).filter(|mount| mount.is_of(version));
        let mounts: Vec<Mount> = mounts.collect();
        let path = Path::new(path);
        // Parts of the hierarchy may be mounted for other containers too.
        let own = mounts.iter().find(|mount| path.starts_with(&mount.part));
        let levels = own.or(mounts.first())?.levels(path);
        Some(Self { version, levels, files: files.clone() })
    }

    /// What the smallest limit around the process leaves; `None` where no limit is set.
    pub(super) fn available(&self) -> Option<AvailableMemory> {
        let available = self.levels.iter().filter_map(|level| self.available_at(level));
        available.min_by_key(|available| available.bytes)
    }

    fn available_at(&self, level: &Path) -> Option<AvailableMemory> {
        let text = |file: &str| self.text(level, file);
        let limit = |file: &str| Some((text(file).trim().parse::<u64>().ok()?, file.to_owned()));
        let stat = text("memory.stat");
        let (limits, used, reclaimable) = match self.version {
            CgroupVersion::Two => (
                [limit("memory.max"), limit("memory.high")],
                "memory.current",
                ["inactive_file ", "active_file ", "slab_reclaimable "],
            ),
            CgroupVersion::One => {
                // This figure alone includes the cgroups around it that are not mounted here.
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
        // Pages of files count as used, but the kernel drops them when the memory is needed.
        let files = reclaimable.iter().filter_map(|key| value_of(&stat, key));
        let used = text(used).trim().parse::<u64>().unwrap_or(0);
        let used = used.saturating_sub(files.fold(0, u64::saturating_add));
        Some(AvailableMemory {
            bytes: bytes.saturating_sub(used),
            limit: Some(format!("{file} of {}, {} MiB", level.display(), mib(bytes))),
        })
    }

    /// How many processes of the cgroup the kernel has killed for want of memory.
    pub(super) fn oom_kills(&self) -> Option<u64> {
        let file = match self.version {
            CgroupVersion::Two => "memory.events",
            CgroupVersion::One => "memory.oom_control",
        };
        value_of(&self.text(self.levels.first()?, file), "oom_kill ")
    }

    fn text(&self, level: &Path, file: &str) -> String {
        self.files.read(level.join(file))
    }
}

/// A part of a cgroup hierarchy that is mounted.
struct Mount {
    /// The part, as a path in the hierarchy.
    part: PathBuf,
    /// The folder that it is mounted on.
    point: PathBuf,
    fs: String,
    options: String,
}

impl Mount {
    /// Reads a line of mountinfo: `id parent device part point options [fields] - type source
    /// options`.
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

    fn is_of(&self, version: CgroupVersion) -> bool {
        match version {
            CgroupVersion::One => {
                self.fs == "cgroup" && self.options.split(',').any(|option| option == "memory")
            }
            CgroupVersion::Two => self.fs == "cgroup2",
        }
    }

    /// The folders of the cgroup at `path` and of those around it, as far as they are mounted.
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

/// Undoes the three octal digits that mountinfo writes for blanks and backslashes.
fn unescaped(field: &str) -> PathBuf {
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    plain.iter().fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain)).into()
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that this process can still get, by the machine, its control groups and its own limits.

use std::path::{Path, PathBuf};

/// Bytes of host memory that are available, where the system reports it (Linux).
pub(super) fn available() -> Option<u64> {
    System { root: Path::new("/") }.available()
}

/// A number in a file of its own.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// `name` in a file of lines of names and numbers.
fn entry(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Names of a control group's files, which differ between the versions.
struct Names {
    limits: &'static [&'static str],
    usage: &'static str,
    /// Of `memory.stat`: file cache that the kernel gives up before it ends a process.
    reclaimable: &'static str,
}

const V1: Names =
    Names { limits: &["memory.limit_in_bytes"], usage: "memory.usage_in_bytes", reclaimable: "total_inactive_file " };
const V2: Names = Names { limits: &["memory.max", "memory.high"], usage: "memory.current", reclaimable: "inactive_file " };

/// The system's files below `root`.
struct System<'a> {
    root: &'a Path,
}

impl System<'_> {
    fn read(&self, path: &Path) -> Option<String> {
        std::fs::read_to_string(self.root.join(path.strip_prefix("/").unwrap_or(path))).ok()
    }

    fn available(&self) -> Option<u64> {
        [self.machine(), self.groups(), self.address_space()].into_iter().flatten().min()
    }

    fn machine(&self) -> Option<u64> {
        entry(&self.read(Path::new("/proc/meminfo"))?, "MemAvailable:")?.checked_mul(1024)
    }

    /// What `ulimit -v` leaves.
    fn address_space(&self) -> Option<u64> {
        let limit = entry(&self.read(Path::new("/proc/self/limits"))?, "Max address space")?;
        let used = entry(&self.read(Path::new("/proc/self/status"))?, "VmSize:")?.saturating_mul(1024);
        Some(limit.saturating_sub(used))
    }

    /// The least that any control group above the process leaves.
    fn groups(&self) -> Option<u64> {
        let own = self.read(Path::new("/proc/self/cgroup"))?;
        let mounts = self.read(Path::new("/proc/self/mountinfo"))?;
        mounts.lines().filter_map(|mount| self.hierarchy(mount, &own)).min()
    }

    /// What the groups of one mounted hierarchy leave; `own`: the process's groups, as `/proc/self/cgroup` lists them.
    fn hierarchy(&self, mount: &str, own: &str) -> Option<u64> {
        // id, parent, device, root, mount point, options, .. - type, source, options of the file system
        let (before, after) = mount.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, PathBuf::from(before.next()?));
        let (kind, options) = (after.split(' ').next()?, after.rsplit(' ').next()?);
        let has_memory = |controllers: &str| controllers.split(',').any(|c| c == "memory");
        let (names, wanted): (_, &dyn Fn(&str) -> bool) = match kind {
            "cgroup2" => (V2, &|controllers| controllers.is_empty()),
            "cgroup" if has_memory(options) => (V1, &has_memory),
            _ => return None,
        };
        let group = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            wanted(controllers).then_some(path)
        })?;
        // A container may see only its own group, at the mount point.
        let below = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
        let below = if below.components().all(|c| matches!(c, std::path::Component::Normal(_))) { below } else { Path::new("") };
        let group = point.join(below);
        group.ancestors().take_while(|a| a.starts_with(&point)).filter_map(|a| self.group(a, &names)).min()
    }

    /// What one group leaves.
    fn group(&self, group: &Path, names: &Names) -> Option<u64> {
        let limit = names.limits.iter().filter_map(|name| number(&self.read(&group.join(name))?)).min()?;
        let used = number(&self.read(&group.join(names.usage))?)?;
        let cache = self.read(&group.join("memory.stat")).and_then(|s| entry(&s, names.reclaimable)).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(cache)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of a system, which go away with the test.
    struct Files(PathBuf);

    impl Files {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("elastictok-memory-{name}-{}", std::process::id()));
            for (path, content) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().expect("inside")).expect("writable");
                std::fs::write(path, content).expect("writable");
            }
            Self(root)
        }

        fn available(&self) -> Option<u64> {
            System { root: &self.0 }.available()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:  8000 kB\nMemFree:   10 kB\nMemAvailable:    4000 kB\n");
    const MOUNT_V2: (&str, &str) = (
        "proc/self/mountinfo",
        "22 1 0:20 / /proc rw - proc proc rw\n30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
    );

    #[test]
    fn without_groups_the_machine_decides() {
        assert_eq!(Files::new("machine", &[MACHINE]).available(), Some(4000 << 10));
        assert_eq!(Files::new("nothing", &[]).available(), None);
    }

    #[test]
    fn any_group_above_may_be_the_least() {
        let files = |outer: &'static str, inner: &'static str| {
            Files::new(
                "v2",
                &[
                    MACHINE,
                    MOUNT_V2,
                    ("proc/self/cgroup", "0::/user/app\n"),
                    ("sys/fs/cgroup/user/memory.max", outer),
                    ("sys/fs/cgroup/user/memory.current", "1000000\n"),
                    ("sys/fs/cgroup/user/app/memory.max", inner),
                    ("sys/fs/cgroup/user/app/memory.high", "max\n"),
                    ("sys/fs/cgroup/user/app/memory.current", "900000\n"),
                    ("sys/fs/cgroup/user/app/memory.stat", "anon 1\ninactive_file 100000\n"),
                ],
            )
        };
        assert_eq!(files("max\n", "1500000\n").available(), Some(700_000));
        assert_eq!(files("1200000\n", "1500000\n").available(), Some(200_000));
        assert_eq!(files("max\n", "max\n").available(), Some(4000 << 10));
        assert_eq!(files("500000\n", "max\n").available(), Some(0), "over its limit already");
    }

    #[test]
    fn version_1_and_containers_that_see_their_group_as_the_root() {
        let mount = "33 22 0:29 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n34 22 0:30 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
        let mut all = vec![
            MACHINE,
            ("proc/self/mountinfo", mount),
            ("proc/self/cgroup", "4:cpu:/elsewhere\n3:memory:/docker/x\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 250000\n"),
        ];
        assert_eq!(Files::new("v1", &all).available(), Some(750_000));
        all[2].1 = "3:memory:/../../outside\n";
        assert_eq!(Files::new("v1-outside", &all).available(), Some(750_000));
        all[3].1 = "9223372036854771712\n";
        assert_eq!(Files::new("v1-unlimited", &all).available(), Some(4000 << 10));
    }

    #[test]
    fn the_address_space_counts() {
        let limits =
            |limit| format!("Limit   Soft Limit   Hard Limit   Units\nMax address space         {limit}    unlimited    bytes\n");
        let (some, none) = (limits("3000000"), limits("unlimited"));
        let status = ("proc/self/status", "Name:\tx\nVmSize:\t    1000 kB\n");
        assert_eq!(
            Files::new("ulimit", &[MACHINE, status, ("proc/self/limits", &some)]).available(),
            Some(3_000_000 - 1_024_000)
        );
        assert_eq!(Files::new("no-ulimit", &[MACHINE, status, ("proc/self/limits", &none)]).available(), Some(4000 << 10));
    }
}

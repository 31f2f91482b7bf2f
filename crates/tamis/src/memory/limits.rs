//! What the system says of memory (Linux): the address space of this process, the control groups that it is in
//! and those around them, and what is free on the machine. Text in, numbers out.

use std::path::{Component, Path, PathBuf};

use super::Available;
use crate::disk::read_text;

/// Reads a file of the system.
pub(super) type Read<'a> = dyn Fn(&Path) -> Option<String> + 'a;

/// From the machine itself.
pub(super) fn read(path: &Path) -> Option<String> {
    read_text(path, 1 << 20).ok()
}

/// Whether memory counts that others would have to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swap {
    /// The system makes room by writing what others hold to disk.
    Counted,
    /// It is slow.
    LeftOut,
}

/// Bytes that this process holds.
pub(super) fn held(read: &Read<'_>) -> Option<u64> {
    kilobytes(&read(Path::new("/proc/self/status"))?, "VmRSS:")
}

/// The least of all limits, each with what this process holds already.
pub(super) fn least(read: &Read<'_>, swap: Swap) -> Option<Available> {
    let held = held(read)?;
    let mut left = control_groups(read);
    left.extend(address_space(read));
    left.extend(machine(read, swap));
    let least = left.into_iter().min_by_key(|limit| limit.bytes)?;
    Some(Available { bytes: least.bytes.saturating_add(held), ..least })
}

/// The number after `key` in lines like `VmRSS:   12 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn machine(read: &Read<'_>, swap: Swap) -> Option<Available> {
    let text = read(Path::new("/proc/meminfo"))?;
    let swapped = if swap == Swap::Counted { kilobytes(&text, "SwapFree:").unwrap_or(0) } else { 0 };
    let bytes = kilobytes(&text, "MemAvailable:")?.saturating_add(swapped);
    Some(Available { bytes, limit: "what is free on this machine".into() })
}

fn address_space(read: &Read<'_>) -> Option<Available> {
    let limits = read(Path::new("/proc/self/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    let taken = kilobytes(&read(Path::new("/proc/self/status"))?, "VmSize:")?;
    Some(Available {
        bytes: limit.saturating_sub(taken),
        limit: "its address space is limited (ulimit -v)".into(),
    })
}

/// The two kinds of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The folder of this process' group, and that of the outermost group that can be seen.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    folder: PathBuf,
    root: PathBuf,
}

fn control_groups(read: &Read<'_>) -> Vec<Available> {
    let text = |path: &str| read(Path::new(path)).unwrap_or_default();
    let groups = groups(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
    let folders = groups.iter().flat_map(|group| {
        let seen = group.folder.ancestors().take_while(|folder| folder.starts_with(&group.root));
        seen.map(|folder| (group.version, folder))
    });
    folders.filter_map(|(version, folder)| left(read, version, folder)).collect()
}

/// What is left in one group; what is cached of files makes room.
fn left(read: &Read<'_>, version: Version, folder: &Path) -> Option<Available> {
    let (limit, used, prefix) = match version {
        Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        Version::Two => ("memory.max", "memory.current", ""),
    };
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
    // Without a limit the file says "max", or the largest multiple of a page.
    let most = number(limit).filter(|bytes| *bytes < 1 << 60)?;
    let stat = read(&folder.join("memory.stat")).unwrap_or_default();
    let cached = ["inactive_file", "active_file"].iter().filter_map(|kind| {
        let key = format!("{prefix}{kind} ");
        stat.lines().find_map(|line| line.strip_prefix(&key))?.trim().parse::<u64>().ok()
    });
    let used = number(used)?.saturating_sub(cached.sum());
    Some(Available { bytes: most.saturating_sub(used), limit: format!("{limit} of {}", folder.display()) })
}

/// The groups that count memory, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn groups(cgroup: &str, mountinfo: &str) -> Vec<Group> {
    let path_of = |version: Version| {
        cgroup.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let ours = match version {
                Version::One => controllers.split(',').any(|name| name == "memory"),
                Version::Two => number == "0" && controllers.is_empty(),
            };
            ours.then_some(path)
        })
    };
    let mounts = mountinfo.lines().filter_map(|line| {
        let (first, second) = line.split_once(" - ")?;
        let mut first = first.split(' ').skip(3);
        let (root, mount) = (unescaped(first.next()?), unescaped(first.next()?));
        let mut second = second.split(' ');
        let version = match (second.next()?, second.nth(1)?) {
            ("cgroup2", _) => Version::Two,
            ("cgroup", options) if options.split(',').any(|o| o == "memory") => Version::One,
            _ => return None,
        };
        // A container may be shown its own part of the tree alone, as the root of the mount.
        let below = Path::new(path_of(version)?).strip_prefix(&root).ok();
        let below = below.filter(|path| path.components().all(|c| matches!(c, Component::Normal(_))));
        let root = PathBuf::from(mount);
        Some(Group { version, folder: below.map_or(root.clone(), |path| root.join(path)), root })
    });
    mounts.collect()
}

/// A path of `mountinfo`, in which blanks and backslashes are octal.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (code, character)| path.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE_1: &str = "36 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          37 31 0:34 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
    const TREE_2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const MIB: u64 = 1 << 20;

    fn system<'a>(files: &'a [(&'a str, &'a str)]) -> impl Fn(&Path) -> Option<String> + 'a {
        |path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
    }

    const STATUS: (&str, &str) = ("/proc/self/status", "Name: a\nVmSize:\t 2048 kB\nVmRSS:\t  1024 kB\n");
    const MEMINFO: (&str, &str) =
        ("/proc/meminfo", "MemTotal: 99 kB\nMemAvailable:   102400 kB\nSwapFree:  1024 kB\n");

    #[test]
    fn a_machine_without_limits_has_what_is_free() {
        let files = [STATUS, MEMINFO];
        let found = least(&system(&files), Swap::Counted).unwrap();
        assert_eq!((found.bytes, &*found.limit), (102 * MIB, "what is free on this machine"));
        assert_eq!(least(&system(&files), Swap::LeftOut).unwrap().bytes, 101 * MIB);
        assert_eq!(least(&system(&[]), Swap::Counted), None);
        assert_eq!(least(&system(&[STATUS]), Swap::Counted), None);
        assert_eq!(kilobytes("MemTotal: 9 kB\n", "MemAvailable:"), None);
    }

    #[test]
    fn the_address_space_counts_where_it_is_limited() {
        let row = |limit: &str| {
            format!("Limit   Soft Limit  Hard Limit  Units\nMax address space  {limit}  unlimited  bytes\n")
        };
        let with = |limit: &str| {
            least(&system(&[STATUS, MEMINFO, ("/proc/self/limits", &row(limit))]), Swap::Counted).unwrap()
        };
        assert_eq!(with("unlimited").bytes, 102 * MIB);
        // 10 MiB less the 2 that are addressed, and the one that is held
        assert_eq!(with("10485760").bytes, 9 * MIB);
        assert!(with("10485760").limit.contains("ulimit -v"));
        assert_eq!(with("1").bytes, MIB);
    }

    #[test]
    fn groups_are_found_through_their_mounts() {
        let one = "4:memory:/a/b\n3:cpu,cpuacct:/c\n0::/d\n";
        let group =
            |version, root: &str, folder: &str| Group { version, folder: folder.into(), root: root.into() };
        let first = group(Version::One, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/b");
        let second = group(Version::Two, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/d");
        assert_eq!(groups(one, TREE_1), [first, second]);
        assert_eq!(groups("0::/\n", TREE_2), [group(Version::Two, "/sys/fs/cgroup", "/sys/fs/cgroup")]);
        // a container that sees its own part alone, and one whose path is not below what is mounted
        let part = TREE_2.replace("0:26 / /sys", "0:26 /docker/x\\040y /sys");
        let own = group(Version::Two, "/sys/fs/cgroup", "/sys/fs/cgroup/z");
        assert_eq!(groups("0::/docker/x y/z\n", &part), [own]);
        assert_eq!(groups("0::/../other\n", &part)[0].folder, Path::new("/sys/fs/cgroup"));
        assert_eq!(groups("", TREE_2), []);
        assert_eq!(groups("0::/a\n", "nonsense\n - \n"), []);
    }

    #[test]
    fn the_narrowest_group_around_a_process_counts() {
        let inner = "/sys/fs/cgroup/a/b/memory.max";
        let files = |own: &'static str| {
            [
                STATUS,
                MEMINFO,
                ("/proc/self/cgroup", "0::/a/b\n"),
                ("/proc/self/mountinfo", TREE_2),
                (inner, own),
                ("/sys/fs/cgroup/a/b/memory.current", "1048576\n"),
                ("/sys/fs/cgroup/a/memory.max", "20971520\n"),
                ("/sys/fs/cgroup/a/memory.current", "16777216\n"),
                ("/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 2097152\nactive_file 1048576\n"),
            ]
        };
        let found = least(&system(&files("max\n")), Swap::Counted).unwrap();
        assert_eq!((found.bytes, &*found.limit), (8 * MIB, "memory.max of /sys/fs/cgroup/a"));
        let found = least(&system(&files("3145728\n")), Swap::Counted).unwrap();
        assert_eq!((found.bytes, &*found.limit), (3 * MIB, "memory.max of /sys/fs/cgroup/a/b"));
    }

    #[test]
    fn groups_of_the_first_kind_count_too() {
        let files = |limit: &'static str| {
            [
                STATUS,
                MEMINFO,
                ("/proc/self/cgroup", "4:memory:/a\n"),
                ("/proc/self/mountinfo", TREE_1),
                ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", limit),
                ("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "5242880\n"),
                ("/sys/fs/cgroup/memory/a/memory.stat", "inactive_file 9\ntotal_inactive_file 1048576\n"),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ]
        };
        let found = least(&system(&files("10485760\n")), Swap::Counted).unwrap();
        assert_eq!(found.bytes, 7 * MIB);
        assert!(found.limit.contains("limit_in_bytes of /sys/fs/cgroup/memory/a"), "{}", found.limit);
        assert_eq!(least(&system(&files("9223372036854771712\n")), Swap::Counted).unwrap().bytes, 102 * MIB);
    }
}

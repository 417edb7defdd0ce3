//! What a folder lies on: which mount, and whether its file system is one that the store can rely on. It only looks.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

/// File systems whose promises are somebody else's, by their magic numbers (statfs(2), `linux/magic.h`).
const DOUBTFUL: [(u32, &str); 9] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x0bd0_0bd0, "lustre"),
];

/// A mount, as far as it can be told from others that are there at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    device: u64,
    /// Also tells a bind mount from what lies below it. Linux 5.8 and later know it.
    id: Option<u64>,
}

impl Mount {
    /// The mount that the folder at `path` is on.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let device = std::fs::metadata(path)?.dev();
        let id = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok();
        let id = id.filter(|found| found.stx_mask & StatxFlags::MNT_ID.bits() != 0).map(|found| found.stx_mnt_id);
        Ok(Self { device, id })
    }
}

/// The kind of the file system that the folder at `path` is on, if the store has to take somebody else's word for what it promises.
pub(super) fn doubtful_file_system(path: &Path) -> Option<&'static str> {
    // Where nobody tells there is nothing to be said.
    doubtful(rustix::fs::statfs(path).ok()?.f_type as u32)
}

fn doubtful(found: u32) -> Option<&'static str> {
    DOUBTFUL.iter().find(|(magic, _)| *magic == found).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let here = Mount::of(dir.path()).unwrap();
        assert_eq!(here, Mount::of(dir.path()).unwrap());
        assert_ne!(here, Mount::of(Path::new("/proc")).unwrap());
        assert!(Mount::of(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn a_local_disk_is_not_doubtful_and_a_servers_is() {
        assert_eq!(doubtful(0x6969), Some("nfs"));
        assert_eq!(doubtful(0xff53_4d42), Some("cifs"));
        assert_eq!(doubtful(0xef53), None, "ext4");
        assert_eq!(doubtful_file_system(Path::new("/proc")), None);
        assert_eq!(doubtful_file_system(tempfile::tempdir().unwrap().path()), None);
    }
}

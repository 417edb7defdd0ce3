//! Disks that fail for real: file systems that are mounted for a test.
//! Needs root, loop devices, e2fsprogs and xfsprogs; where one of them is missing, the test fails.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// A file system of its own, mounted on a folder. It is unmounted when this is dropped; a mirror on it has to be dropped before.
pub(crate) struct Disk {
    dir: TempDir,
    kind: Kind,
}

enum Kind {
    Tmpfs(String),
    /// In an image, so that it can be mounted again.
    Ext4,
}

impl Disk {
    /// A tmpfs with these options, e.g. `size=20m`.
    pub(crate) fn tmpfs(options: &str) -> Disk {
        Disk::new(Kind::Tmpfs(options.to_owned()))
    }

    /// An ext4 file system of so many MiB, in an image on a loop device, that becomes read-only when it finds itself broken.
    pub(crate) fn ext4(mebibytes: u64) -> Disk {
        let disk = Disk { dir: tempfile::tempdir().unwrap(), kind: Kind::Ext4 };
        fs::File::create(disk.image()).unwrap().set_len(mebibytes << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(disk.image()));
        disk.mounted()
    }

    fn new(kind: Kind) -> Disk {
        Disk { dir: tempfile::tempdir().unwrap(), kind }.mounted()
    }

    fn mounted(self) -> Disk {
        fs::create_dir(self.mount_point()).unwrap();
        self.mount();
        self
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A configuration that has the cache on it.
    pub(crate) fn config(&self) -> String {
        format!("cache.dir = {:?}\ncache.min_free = \"1MB\"", self.mount_point())
    }

    pub(crate) fn mount(&self) {
        let mut mount = Command::new("mount");
        match &self.kind {
            Kind::Tmpfs(options) => mount.args(["-t", "tmpfs", "-o", options, "larder-test"]),
            Kind::Ext4 => mount.args(["-t", "ext4", "-o", "loop,errors=remount-ro"]).arg(self.image()),
        };
        run(mount.arg(self.mount_point()));
    }

    /// Mounts it again as it is, with other options.
    pub(crate) fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.mount_point()));
    }

    /// Takes it away, whoever has files open on it.
    pub(crate) fn unmount(&self) {
        run(Command::new("umount").arg("--lazy").arg(self.mount_point()));
    }

    /// Has the kernel find the file system broken, whereupon it can only be read, until it is mended and mounted again.
    pub(crate) fn become_read_only(&self) {
        let source = output(Command::new("findmnt").args(["-no", "SOURCE"]).arg(self.mount_point()));
        let device = source.trim().strip_prefix("/dev/").unwrap();
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "as a test wants").unwrap();
    }

    /// Stops it as a loss of power would: what was not synced is lost, and nothing more is written or read until it is mounted again.
    pub(crate) fn lose_power(&self) {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(self.mount_point()));
    }

    /// Waits until nobody uses it any more after it was unmounted, and mends it.
    pub(crate) async fn mend(&self) {
        let asked = std::time::Instant::now();
        while !output(Command::new("losetup").arg("-j").arg(self.image())).is_empty() {
            assert!(asked.elapsed() < super::PATIENCE, "somebody keeps a file system open that was unmounted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // 1 is "something was mended".
        let status =
            Command::new("e2fsck").arg("-fy").arg(self.image()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    }

    /// Takes all the room there is.
    pub(crate) fn fill_up(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        let error = std::iter::repeat_with(|| std::io::Write::write(&mut file, &[1; 4096])).find_map(Result::err);
        assert_eq!(error.map(|error| error.kind()), Some(std::io::ErrorKind::StorageFull));
    }

    /// Gives back so many bytes of what [`Disk::fill_up`] has taken.
    pub(crate) fn make_room_for(&self, bytes: u64) {
        let filler = fs::OpenOptions::new().write(true).open(self.filler()).unwrap();
        filler.set_len(filler.metadata().unwrap().len() - bytes).unwrap();
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.mount_point().join("filler")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Fails where it is not mounted at the moment.
        let _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(self.mount_point()).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}; tests of disks need root, loop devices, mkfs.ext4 and xfs_io");
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8(output.stdout).unwrap()
}

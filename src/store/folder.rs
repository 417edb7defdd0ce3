//! Takes possession of the store's folder: one process at a time, and only a folder that is empty or was made by Larder.
//! It never writes into a folder before it knows that it may.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::error::OpenError;

/// The layout that this version reads and writes.
const LAYOUT: u32 = 1;

/// Marks the folder as ours, and as a cache that backups leave out (<https://bford.info/cachedir/>).
const MARKER: &str = "CACHEDIR.TAG";
const MARKER_HEAD: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # Larder's store: content of container registries, all of which can be fetched again.\n\
    # layout ";

const LOCK: &str = "LOCK";

/// What a new file system has in its root folder.
const LOST_AND_FOUND: &str = "lost+found";

/// A folder that this process has to itself until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Holds the lock (`flock`). Says whose it is, and where its holder answers.
    lock: File,
}

/// What the marker file says.
enum Marker {
    Ours,
    /// Never written, or written in part by a process that was killed.
    Unfinished,
    OtherLayout(String),
    Foreign,
}

impl Folder {
    /// Creates `dir` if need be, and takes it.
    pub(super) fn claim(dir: &Path) -> Result<Self, OpenError> {
        let failed = |what| move |source| OpenError::Io { dir: dir.to_owned(), what, source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create it"))?;
        let path = dir.canonicalize().map_err(failed("resolve its path"))?;
        let finished = match read_marker(&path).map_err(failed("read its marker"))? {
            Marker::Ours => true,
            Marker::Unfinished if is_empty(&path).map_err(failed("list it"))? => false,
            Marker::OtherLayout(found) => return Err(OpenError::OtherLayout { dir: path, found, known: LAYOUT }),
            Marker::Unfinished | Marker::Foreign => return Err(OpenError::NotOurs(path)),
        };
        let lock = lock(&path)?;
        if !finished {
            write_marker(&path).map_err(failed("write its marker"))?;
        }
        Ok(Self { path, lock })
    }

    /// Says to other processes where this one answers.
    pub(super) fn announce(&self, address: SocketAddr) -> io::Result<()> {
        writeln!(&self.lock, "{address}")
    }

    /// The folder's path, absolute and without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { dir: dir.to_owned(), what: "lock it", source };
    let mut file = open_options().read(true).write(true).create(true).truncate(false).open(dir.join(LOCK)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // It may have been given back, and taken again, in between: then it says nothing yet.
            let _ = (&file).take(128).read_to_string(&mut text);
            let mut lines = text.lines();
            let pid = lines.next().and_then(|line| line.parse().ok());
            let address = lines.next().and_then(|line| line.parse().ok());
            return Err(OpenError::InUse { dir: dir.to_owned(), pid, address });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

fn read_marker(dir: &Path) -> io::Result<Marker> {
    let mut text = String::new();
    match open_options().read(true).open(dir.join(MARKER)) {
        Ok(file) => file.take(4096).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Marker::Unfinished),
        Err(error) => return Err(error),
    };
    let ours = marker();
    Ok(match text.strip_prefix(MARKER_HEAD) {
        _ if text == ours => Marker::Ours,
        _ if ours.starts_with(&text) => Marker::Unfinished,
        Some(layout) => Marker::OtherLayout(layout.trim().to_owned()),
        None => Marker::Foreign,
    })
}

fn write_marker(dir: &Path) -> io::Result<()> {
    let mut file = open_options().write(true).create(true).truncate(true).open(dir.join(MARKER))?;
    file.write_all(marker().as_bytes())?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

fn marker() -> String {
    format!("{MARKER_HEAD}{LAYOUT}\n")
}

/// Whether nothing is in the folder but what a mount or an unfinished start leaves there.
fn is_empty(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if ![LOST_AND_FOUND, LOCK, MARKER].iter().any(|known| name == **known) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::claim(dir.path()).unwrap();
        let error = Folder::claim(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        Folder::claim(dir.path()).unwrap();
    }

    #[test]
    fn somebody_elses_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        for marker in [None, Some("Signature: 8a477f597d28d172789f06886806bc55\n# by somebody else"), Some("hello")] {
            if let Some(marker) = marker {
                fs::write(dir.path().join(MARKER), marker).unwrap();
            }
            let before = fs::read_dir(dir.path()).unwrap().count();
            assert!(matches!(Folder::claim(dir.path()), Err(OpenError::NotOurs(_))), "{marker:?}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "nothing was written");
        }
    }

    #[test]
    fn a_fresh_mount_and_a_start_that_was_killed_are_as_good_as_empty() {
        for written in [0, 1, MARKER_HEAD.len(), marker().len() - 1] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join(LOST_AND_FOUND)).unwrap();
            fs::write(dir.path().join(LOCK), "").unwrap();
            fs::write(dir.path().join(MARKER), &marker()[..written]).unwrap();
            drop(Folder::claim(dir.path()).unwrap());
            fs::write(dir.path().join("catalog.sqlite"), "").unwrap();
            Folder::claim(dir.path()).unwrap();
        }
    }

    #[test]
    fn a_layout_of_another_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARKER), format!("{MARKER_HEAD}7\n")).unwrap();
        let error = Folder::claim(dir.path()).unwrap_err();
        assert!(matches!(&error, OpenError::OtherLayout { found, .. } if found == "7"), "{error}");
    }

    #[test]
    fn a_lock_that_is_a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, "precious").unwrap();
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        std::os::unix::fs::symlink(&target, store.join(LOCK)).unwrap();
        assert!(matches!(Folder::claim(&store), Err(OpenError::Io { .. })));
        assert_eq!(fs::read_to_string(target).unwrap(), "precious");
    }
}

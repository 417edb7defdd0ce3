//! Takes possession of the store's folder: one process at a time, and only a folder that is empty or was made by Larder. Knows
//! whether the folder is still there, and takes it again when it is back.
//! It never writes into a folder before it knows that it may: below a file system that was unmounted lies the bare mount point.

mod medium;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use self::medium::Mount;

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

/// A folder that this process has to itself until this is dropped or the process ends, however it ends; or until it is gone.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock_path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` while the folder is not there.
    held: Option<Held>,
    /// On which mount it was when it was last taken; `None` if it never was.
    mount: Option<Mount>,
    /// Where this process answers, as other processes are told.
    address: Option<SocketAddr>,
}

/// A folder that was taken.
#[derive(Debug)]
struct Held {
    /// Holds the lock (`flock`). Says whose it is, and where its holder answers.
    lock: File,
    /// Of that file: as long as its name leads to it, the folder is the one that was taken.
    identity: Identity,
}

/// What tells a file from all others that are there at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// The folder is not there, or not the one that was taken.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the cache's folder is gone, or another is in its place")]
pub(super) struct Gone;

/// What the marker file says.
enum Marker {
    Ours,
    /// Never written, or written in part by a process that was killed.
    Unfinished,
    OtherLayout(String),
    Foreign,
}

impl From<Gone> for io::Error {
    fn from(gone: Gone) -> Self {
        Self::other(gone)
    }
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

// === impl Folder ===

impl Folder {
    /// Creates `dir` if need be, and takes it.
    pub(super) fn claim(dir: &Path) -> Result<Self, OpenError> {
        let failed = |what| move |source| OpenError::Io { dir: dir.to_owned(), what, source };
        create(dir).map_err(failed("create it"))?;
        let path = dir.canonicalize().map_err(failed("resolve its path"))?;
        let mount = Mount::of(&path).map_err(failed("look at it"))?;
        let held = take(&path, mount, None)?;
        if let Some(kind) = medium::doubtful_file_system(&path) {
            tracing::warn!(
                dir = %path.display(), kind,
                "the cache lies on a file system that may not keep what it says: locks, syncs and atomic renames are its server's \
                 word; give it a local disk"
            );
        }
        let state = State { held: Some(held), mount: Some(mount), address: None };
        Ok(Self { lock_path: path.join(LOCK), path, state: Mutex::new(state) })
    }

    /// As [`Folder::claim`]; but a folder that the disk does not let be taken is out of reach until [`Folder::take_back`]. Tells what is
    /// in the way.
    pub(super) fn claim_or_wait(dir: &Path) -> Result<(Self, Option<OpenError>), OpenError> {
        let error = match Self::claim(dir) {
            Ok(folder) => return Ok((folder, None)),
            Err(error @ OpenError::Io { .. }) => error,
            Err(error) => return Err(error),
        };
        let path = dir.canonicalize().or_else(|_| std::path::absolute(dir));
        let path = path.map_err(|source| OpenError::Io { dir: dir.to_owned(), what: "resolve its path", source })?;
        let state = State { held: None, mount: None, address: None };
        Ok((Self { lock_path: path.join(LOCK), path, state: Mutex::new(state) }, Some(error)))
    }

    /// The folder's path, absolute and without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Says to other processes where this one answers.
    pub(super) fn announce(&self, address: SocketAddr) -> io::Result<()> {
        let mut state = self.state();
        state.address = Some(address);
        state.held.as_ref().map_or(Ok(()), |held| held.announce(address))
    }

    /// Whether the folder is at its path, and the one that was taken: a `stat`.
    ///
    /// # Errors
    /// [`Gone`] if it is not. What is at the path then, perhaps a bare mount point, is not to be touched, and that something is not
    /// in it says nothing.
    pub(super) fn check(&self) -> Result<(), Gone> {
        let expected = self.state().held.as_ref().map(|held| held.identity).ok_or(Gone)?;
        match fs::symlink_metadata(&self.lock_path) {
            Ok(found) if Identity::of(&found) == expected => Ok(()),
            Ok(_) | Err(_) => Err(Gone),
        }
    }

    /// Lets go of a folder that is gone, so that what it was on can be unmounted for good. Tells whether it was held until now.
    pub(super) fn let_go(&self) -> bool {
        self.state().held.take().is_some()
    }

    /// Takes the folder again after [`Folder::let_go`], or another that was put in its place: one that was made by Larder, or an
    /// empty one where the folder was, but not what has come to light because a file system was unmounted. It is not created, unless it
    /// never was there.
    ///
    /// # Errors
    /// [`OpenError`] with what is in the way.
    pub(super) fn take_back(&self) -> Result<(), OpenError> {
        let failed = |what| move |source| OpenError::Io { dir: self.path.clone(), what, source };
        let mut state = self.state();
        if state.mount.is_none() {
            create(&self.path).map_err(failed("create it"))?;
        }
        let mount = Mount::of(&self.path).map_err(failed("find it"))?;
        let held = take(&self.path, mount, state.mount)?;
        if let Some(Err(error)) = state.address.map(|address| held.announce(address)) {
            tracing::warn!(%error, "tools will not find this process by its folder");
        }
        (state.held, state.mount) = (Some(held), Some(mount));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn announce(&self, address: SocketAddr) -> io::Result<()> {
        writeln!(&self.lock, "{address}")
    }
}

fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Takes the folder at `path`, which is on `mount`; if it was taken `before` on another one, then only if it has our marker.
fn take(path: &Path, mount: Mount, before: Option<Mount>) -> Result<Held, OpenError> {
    let failed = |what| move |source| OpenError::Io { dir: path.to_owned(), what, source };
    let finished = match read_marker(path).map_err(failed("read its marker"))? {
        Marker::Ours => true,
        Marker::Unfinished if is_empty(path).map_err(failed("list it"))? => false,
        Marker::OtherLayout(found) => return Err(OpenError::OtherLayout { dir: path.to_owned(), found, known: LAYOUT }),
        Marker::Unfinished | Marker::Foreign => return Err(OpenError::NotOurs(path.to_owned())),
    };
    if !finished && before.is_some_and(|before| before != mount) {
        return Err(OpenError::NotMounted(path.to_owned()));
    }
    let lock = lock(path)?;
    let identity = Identity::of(&lock.metadata().map_err(failed("look at its lock"))?);
    if !finished {
        write_marker(path).map_err(failed("write its marker"))?;
    }
    Ok(Held { lock, identity })
}

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { dir: dir.to_owned(), what: "lock it", source };
    let path = dir.join(LOCK);
    let opened = match open_options().read(true).write(true).create(true).truncate(false).open(&path) {
        // What cannot be written can still be had for reading, and what is in the folder be served.
        Err(error) if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
            open_options().read(true).open(&path)
        }
        opened => opened,
    };
    let mut file = opened.map_err(failed)?;
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
    if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
        tracing::warn!(%error, "other processes will not be told which one has the cache");
    }
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

    #[test]
    fn a_folder_that_is_gone_is_not_touched_and_is_taken_again_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, away) = (dir.path().join("cache"), dir.path().join("away"));
        let folder = Folder::claim(&path).unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        folder.announce(address).unwrap();
        assert!(folder.check().is_ok());
        fs::rename(&path, &away).unwrap();
        assert!(folder.check().is_err() && folder.let_go() && !folder.let_go());
        assert!(matches!(folder.take_back(), Err(OpenError::Io { .. })));
        assert!(!path.exists());

        fs::create_dir(&path).unwrap();
        fs::write(path.join("thesis.tex"), "x").unwrap();
        assert!(matches!(folder.take_back(), Err(OpenError::NotOurs(_))));
        fs::remove_dir_all(&path).unwrap();
        fs::rename(&away, &path).unwrap();
        assert!(folder.check().is_err(), "it was let go of");
        folder.take_back().unwrap();
        assert!(folder.check().is_ok());
        let error = Folder::claim(&path).unwrap_err();
        assert!(matches!(error, OpenError::InUse { address: Some(found), .. } if found == address), "{error}");

        fs::remove_dir_all(&path).unwrap();
        assert!(folder.check().is_err() && folder.let_go());
        fs::create_dir(&path).unwrap();
        folder.take_back().unwrap();
        assert!(folder.check().is_ok() && path.join(MARKER).exists(), "an operator has emptied the cache");
    }

    #[test]
    fn what_the_disk_does_not_let_be_taken_is_taken_when_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let (path, parent) = (dir.path().join("parent/cache"), dir.path().join("parent"));
        // No folder can be made in a file.
        fs::write(&parent, "").unwrap();
        let (folder, error) = Folder::claim_or_wait(&path).unwrap();
        assert!(matches!(error, Some(OpenError::Io { .. })), "{error:?}");
        assert!(folder.check().is_err() && folder.take_back().is_err());
        fs::remove_file(&parent).unwrap();
        folder.take_back().unwrap();
        assert!(folder.check().is_ok());
        assert!(matches!(Folder::claim_or_wait(&path), Err(OpenError::InUse { .. })));
    }

    #[test]
    fn what_is_empty_because_nothing_is_mounted_there_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let here = Mount::of(dir.path()).unwrap();
        let elsewhere = Mount::of(Path::new("/proc")).unwrap();
        assert!(matches!(take(dir.path(), here, Some(elsewhere)), Err(OpenError::NotMounted(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(take(dir.path(), here, Some(here)).unwrap());
        take(dir.path(), here, Some(elsewhere)).unwrap();
    }
}

//! As whom a tool works: on another user's cache root works as that user, so that what a tool makes in it is not root's, which a
//! server without privileges could not write later. Nothing in here touches the cache.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::thread::{set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use rustix::{fs::Gid, fs::Uid};

/// Has this thread, and those that it starts from now on, be the owner of the folder `dir`, if it is root and root does not own the
/// folder. There must be no other threads yet.
///
/// # Errors
/// If the system does not let that happen: then nothing should be done as root.
pub(super) fn become_owner_of(dir: &Path) -> anyhow::Result<()> {
    // Whoever opens the cache says what is wrong with it.
    let Ok(metadata) = fs::metadata(dir) else { return Ok(()) };
    let (user, group) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    if !geteuid().is_root() || user.is_root() {
        return Ok(());
    }
    let change = || {
        // What leads to the folder may be root's alone: the folders of systemd's dynamic users are in such.
        set_keep_capabilities(true)?;
        set_thread_groups(&[group])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        let search = CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, CapabilitySets { effective: search, permitted: search, inheritable: CapabilitySet::empty() })
    };
    change().with_context(|| {
        format!("the cache at {} belongs to the user {}, as whom this has to be run", dir.display(), user.as_raw())
    })
}

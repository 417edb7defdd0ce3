//! Where the cache is when nobody says: the folder that the platform has for it. Nothing is created or looked at on the disk.

use std::path::{Path, PathBuf};

/// Where the system keeps caches of services, for a process that belongs to no user's home.
const SYSTEM: &str = "/var/cache/larder";

/// systemd's `$CACHE_DIRECTORY` (`CacheDirectory=`, systemd.exec(5): several are separated by colons), else `larder` within
/// `$XDG_CACHE_HOME` (which counts only if absolute, says the XDG Base Directory Specification), else within `~/.cache`.
pub(super) fn usual(environment: &[(String, String)]) -> PathBuf {
    let variable = |name: &str| {
        environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    if let Some(dir) = variable("CACHE_DIRECTORY").and_then(|dirs| dirs.split(':').find(|dir| !dir.is_empty())) {
        return dir.into();
    }
    if let Some(dir) = variable("XDG_CACHE_HOME").map(Path::new).filter(|dir| dir.is_absolute()) {
        return dir.join("larder");
    }
    match variable("HOME") {
        Some(home) => Path::new(home).join(".cache/larder"),
        None => SYSTEM.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_comes_first_and_the_system_last() {
        for (variables, dir) in [
            (&[][..], "/var/cache/larder"),
            (&[("HOME", "")], "/var/cache/larder"),
            (&[("HOME", "/home/ada")], "/home/ada/.cache/larder"),
            (&[("HOME", "/home/ada"), ("XDG_CACHE_HOME", "/fast")], "/fast/larder"),
            (&[("HOME", "/home/ada"), ("XDG_CACHE_HOME", "relative")], "/home/ada/.cache/larder"),
            (&[("XDG_CACHE_HOME", "/fast"), ("CACHE_DIRECTORY", "/var/cache/one:/var/cache/two")], "/var/cache/one"),
        ] {
            let environment: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(usual(&environment), Path::new(dir), "{variables:?}");
        }
    }
}

//! The account with which an upstream is asked, from its table or from the file that holds its password. The password is never
//! part of an error.

use std::io::{self, Read};
use std::path::Path;

use super::error::Problem;
use super::settings::{Located, SectionReader};
use super::upstream::Credential;
use super::value;
use crate::util::Secret;

/// The most bytes of a password file that are read. Tokens of a few KiB are usual; more is some other file.
const PASSWORD_FILE_MAX_BYTES: u64 = 64 * 1024;

/// The credential of a section and where it was said, if it has a whole and usable one.
pub(super) fn read(section: &mut SectionReader<'_>) -> Option<Located<Credential>> {
    let has_username = section.says("username");
    let has_password = section.says("password") || section.says("password_file");
    let username = section.given("username", value::username);
    let password = section.given("password", value::password);
    let file = section.path("password_file");

    if !has_username {
        let lonely = [("password", password.map(|it| it.place)), ("password_file", file.map(|it| it.place))];
        for (key, place) in lonely {
            if let Some(place) = place {
                section.note(place, Problem::LonelyPassword(key));
            }
        }
        return None;
    }
    let password = match (password, file) {
        (Some(_), Some(file)) => {
            section.note(file.place, Problem::TwoPasswords);
            return None;
        }
        (Some(password), None) => Some(password.value),
        (None, Some(file)) => match read_file(&file.value) {
            Ok(password) => Some(password),
            Err(problem) => {
                section.note(file.place, problem);
                None
            }
        },
        (None, None) => None,
    };
    let Located { value: username, place } = username?;
    match password {
        Some(password) => Some(Located { value: Credential { username, password }, place }),
        None => {
            if !has_password {
                section.note(place, Problem::LonelyUsername);
            }
            None
        }
    }
}

/// The password in a file, without the line end that editors and `echo` leave behind it.
fn read_file(path: &Path) -> Result<Secret, Problem> {
    let unreadable = |error| Problem::FileUnreadable { file: path.to_owned(), error };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(PASSWORD_FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > PASSWORD_FILE_MAX_BYTES {
        return Err(unreadable(io::Error::other("it is too long to be a password")));
    }
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    value::password(password).map_err(|error| Problem::BadPasswordFile { file: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password_in(content: &[u8]) -> Result<String, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        std::fs::write(&path, content).expect("a file");
        read_file(&path).map(|secret| secret.expose().to_owned()).map_err(|problem| problem.to_string())
    }

    #[test]
    fn one_line_end_is_cut_and_nothing_else() {
        for content in ["canary", "canary\n", "canary\r\n"] {
            assert_eq!(password_in(content.as_bytes()).as_deref(), Ok("canary"));
        }
        assert_eq!(password_in(b" can ary ").as_deref(), Ok(" can ary "));
    }

    #[test]
    fn what_holds_no_password_is_refused_without_showing_it() {
        for content in [&b""[..], b"\n", b"canary\n\n", b"canary\0", b"\xff canary", &[b'x'; 65 * 1024]] {
            let error = password_in(content).expect_err("it is refused");
            assert!(error.contains("password") && !error.contains("canary") && !error.contains("xxx"), "{error}");
        }
    }
}

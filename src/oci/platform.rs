//! Platforms that an index lists its images for, as far as it takes to tell one from another. What runs where is not known here.

use std::fmt;

use serde::Deserialize;

/// The longest word in a platform, in bytes. Known ones have a dozen; a platform is kept in memory, and may come from anywhere.
const WORD_MAX_BYTES: usize = 64;

/// What an image is for: operating system, architecture, and what else its clients tell images apart by (image-spec,
/// image-index.md, `platform`). Features are not looked at.
///
/// Two that every client takes for the same are equal: `linux/arm64/v8` and `linux/arm64`, `linux/amd64/v1` and `linux/amd64`,
/// `linux/arm` and `linux/arm/v7`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    os_version: String,
    architecture: String,
    variant: String,
}

/// `platform` as documents have it, with nothing checked.
#[derive(Default, Deserialize)]
pub(super) struct RawPlatform {
    os: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl RawPlatform {
    /// The platform of what is attached to an image, and is none itself.
    pub(super) fn is_of_attachment(&self) -> bool {
        self.os.as_deref() == Some("unknown")
    }

    /// The platform, if it is one that an image can be for.
    pub(super) fn platform(self) -> Option<Platform> {
        if self.is_of_attachment() {
            return None;
        }
        let os = self.os.filter(|os| !os.is_empty())?;
        let architecture = self.architecture.filter(|architecture| !architecture.is_empty())?;
        let variant = match (architecture.as_str(), self.variant.unwrap_or_default()) {
            ("arm64", variant) if variant == "v8" => String::new(),
            ("amd64", variant) if variant == "v1" => String::new(),
            ("arm", variant) if variant.is_empty() => "v7".to_owned(),
            (_, variant) => variant,
        };
        let platform = Platform { os, os_version: self.os_version.unwrap_or_default(), architecture, variant };
        let words = [&platform.os, &platform.os_version, &platform.architecture, &platform.variant];
        words.iter().all(|word| word.len() <= WORD_MAX_BYTES).then_some(platform)
    }
}

impl fmt::Display for Platform {
    /// `os/architecture`, then `/variant` and `:os-version` where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        if !self.os_version.is_empty() {
            write!(f, ":{}", self.os_version)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(json: &str) -> Option<Platform> {
        serde_json::from_str::<RawPlatform>(json).unwrap().platform()
    }

    fn text(json: &str) -> Option<String> {
        platform(json).map(|platform| platform.to_string())
    }

    #[test]
    fn what_clients_take_for_the_same_is_equal() {
        let linux = |rest: &str| platform(&format!(r#"{{"os":"linux",{rest}}}"#));
        assert_eq!(linux(r#""architecture":"arm64","variant":"v8""#), linux(r#""architecture":"arm64""#));
        assert_eq!(linux(r#""architecture":"amd64","variant":"v1""#), linux(r#""architecture":"amd64","variant":null"#));
        assert_eq!(linux(r#""architecture":"arm""#), linux(r#""architecture":"arm","variant":"v7""#));
        assert_ne!(linux(r#""architecture":"arm","variant":"v6""#), linux(r#""architecture":"arm","variant":"v7""#));
        assert_ne!(linux(r#""architecture":"amd64","variant":"v3""#), linux(r#""architecture":"amd64""#));
    }

    #[test]
    fn it_is_written_as_clients_write_it() {
        assert_eq!(text(r#"{"os":"linux","architecture":"arm","variant":"v6"}"#).as_deref(), Some("linux/arm/v6"));
        let windows = r#"{"os":"windows","architecture":"amd64","os.version":"10.0.20348.2700","os.features":["win32k"]}"#;
        assert_eq!(text(windows).as_deref(), Some("windows/amd64:10.0.20348.2700"));
    }

    #[test]
    fn what_no_image_is_for_is_no_platform() {
        for json in [
            "{}",
            r#"{"os":"","architecture":"amd64"}"#,
            r#"{"os":"linux"}"#,
            r#"{"os":"linux","architecture":null}"#,
            r#"{"os":"unknown","architecture":"unknown"}"#,
        ] {
            assert_eq!(platform(json), None, "{json}");
        }
        assert_eq!(platform(&format!(r#"{{"os":"linux","architecture":"{}"}}"#, "x".repeat(65))), None);
    }
}

//! "Did you mean …?": finds what an operator probably meant to write. It only ever suggests, it never decides.

use std::fmt;

/// What to write instead of something unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    DidYouMean(String),
    /// Nothing is near; these are possible.
    OneOf(Vec<String>),
}

/// Jaro-Winkler similarity from which two words count as near. It forgives a swapped, lost or doubled letter and a cut-off end.
const NEAR: f64 = 0.8;

impl Hint {
    /// The candidate nearest to `word`, or all of them if none is near.
    pub(super) fn among<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        let candidates: Vec<&str> = candidates.into_iter().collect();
        match nearest(word, candidates.iter().copied()) {
            Some(nearest) => Self::DidYouMean(nearest.to_owned()),
            None => Self::OneOf(candidates.into_iter().map(str::to_owned).collect()),
        }
    }

    /// The same with `prefix` before every candidate. Added afterwards, it does not make all of them look near.
    pub(super) fn within(self, prefix: &str) -> Self {
        match self {
            Self::DidYouMean(word) => Self::DidYouMean(format!("{prefix}{word}")),
            Self::OneOf(words) => Self::OneOf(words.into_iter().map(|word| format!("{prefix}{word}")).collect()),
        }
    }
}

/// The candidate nearest to `word`, if any is near.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let similarity = |candidate: &str| strsim::jaro_winkler(&word, &candidate.to_ascii_lowercase());
    candidates
        .into_iter()
        .map(|candidate| (similarity(candidate), candidate))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DidYouMean(word) => write!(f, "did you mean `{word}`?"),
            Self::OneOf(words) => {
                f.write_str("there is ")?;
                for (index, word) in words.iter().enumerate() {
                    let separator = match index {
                        0 => "",
                        _ if index + 1 == words.len() => " and ",
                        _ => ", ",
                    };
                    write!(f, "{separator}`{word}`")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood() {
        let keys = ["dir", "max_size", "username", "password", "password_file"];
        for (slip, meant) in [
            ("max_sise", "max_size"),
            ("max-size", "max_size"),
            ("maxsize", "max_size"),
            ("MAX_SIZE", "max_size"),
            ("user", "username"),
            ("pasword", "password"),
            ("passwordfile", "password_file"),
        ] {
            assert_eq!(nearest(slip, keys), Some(meant), "{slip}");
        }
        assert_eq!(nearest("freshness", keys), None);
    }

    #[test]
    fn all_are_named_when_none_is_near() {
        assert_eq!(Hint::among("zzz", ["a", "b", "c"]).to_string(), "there is `a`, `b` and `c`");
        assert_eq!(Hint::among("zzz", ["a"]).to_string(), "there is `a`");
    }
}

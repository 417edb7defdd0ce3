//! Content digests: `algorithm:encoded`, restricted to the two algorithms that the image specification registers.
//! A [`Digest`] can name a file or stand in a URL without escaping, because nothing but lower-case hex gets into one.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

/// A digest algorithm registered by the OCI image specification (descriptor.md, "Registered algorithms").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

/// What content hashes to. Its text form is `sha256:<64 hex>` or `sha512:<128 hex>`, lower case only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("a digest has the form algorithm:hex")]
    NoSeparator,
    #[error("the digest algorithm is neither sha256 nor sha512")]
    UnknownAlgorithm,
    #[error("a {0} digest has {expected} lower-case hexadecimal digits", expected = .0.hex_len())]
    BadHex(Algorithm),
}

/// Hashes content as it passes by.
#[derive(Clone)]
pub struct Hasher(HasherState);

#[derive(Clone)]
enum HasherState {
    Sha256(Sha256),
    Sha512(Sha512),
}

// === impl Algorithm ===

impl Algorithm {
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits a digest of this algorithm has.
    pub const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == text).ok_or(DigestError::UnknownAlgorithm)
    }
}

// === impl Digest ===

impl Digest {
    /// The sha256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest whose encoded part is `hex`.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        let bad = DigestError::BadHex(algorithm);
        match algorithm {
            Algorithm::Sha256 => Ok(Self::Sha256(decode_hex(hex).ok_or(bad)?)),
            Algorithm::Sha512 => Ok(Self::Sha512(decode_hex(hex).ok_or(bad)?)),
        }
    }

    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// The encoded part: 64 or 128 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        encode_hex(self.as_bytes(), &mut [0; HEX_MAX_BYTES]).to_owned()
    }
}

/// The longest encoded part.
const HEX_MAX_BYTES: usize = Algorithm::Sha512.hex_len();

/// The two digits of each byte. Every request has digests to read and to write, so neither is done digit by digit.
const PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// What each digit stands for; [`NO_DIGIT`] for what is none.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [NO_DIGIT; 256];
    let mut nibble = 0;
    while nibble < 16 {
        nibbles[PAIRS[nibble][1] as usize] = nibble as u8;
        nibble += 1;
    }
    nibbles
};

const NO_DIGIT: u8 = 0xff;

/// Writes `bytes` into the beginning of `buffer`.
fn encode_hex<'a>(bytes: &[u8], buffer: &'a mut [u8; HEX_MAX_BYTES]) -> &'a str {
    for (pair, byte) in buffer.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&PAIRS[usize::from(*byte)]);
    }
    str::from_utf8(&buffer[..2 * bytes.len()]).expect("hexadecimal digits are ASCII")
}

fn decode_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let hex = hex.as_bytes();
    if hex.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    // Gathers the bits of all that was read: those of what is no digit are set nowhere else.
    let mut seen = 0;
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        seen |= high | low;
        *byte = high << 4 | low & 15;
    }
    (seen <= 15).then_some(bytes)
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        for algorithm in Algorithm::ALL {
            if let Some(hex) = text.strip_prefix(algorithm.name()).and_then(|rest| rest.strip_prefix(':')) {
                return Self::from_hex(algorithm, hex);
            }
        }
        Err(if text.contains(':') { DigestError::UnknownAlgorithm } else { DigestError::NoSeparator })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().name())?;
        f.write_str(":")?;
        f.write_str(encode_hex(self.as_bytes(), &mut [0; HEX_MAX_BYTES]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Hasher ===

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => HasherState::Sha256(Sha256::new()),
            Algorithm::Sha512 => HasherState::Sha512(Sha512::new()),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            HasherState::Sha256(state) => state.update(bytes),
            HasherState::Sha512(state) => state.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        match self.0 {
            HasherState::Sha256(state) => Digest::Sha256(state.finalize().into()),
            HasherState::Sha512(state) => Digest::Sha512(state.finalize().into()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            HasherState::Sha256(_) => "Hasher(sha256)",
            HasherState::Sha512(_) => "Hasher(sha512)",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_well_known_one() {
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::sha256(b"")));
    }

    #[test]
    fn sha512_is_as_good_as_sha256() {
        let digest = Digest::of(Algorithm::Sha512, b"abc");
        assert!(digest.to_string().starts_with("sha512:ddaf35a193617abacc417349ae204131"));
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        let short = &EMPTY[..EMPTY.len() - 1];
        for text in [
            "",
            ":",
            "sha256",
            "sha256:",
            "sha256:bad",
            "sha256:../../x",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "SHA256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            &upper,
            short,
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 ",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text:?} was taken for a digest");
        }
    }

    #[test]
    fn each_digit_counts() {
        for place in 0..64 {
            for byte in 0..=u8::MAX {
                let mut hex = "0".repeat(64).into_bytes();
                hex[place] = byte;
                let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                let digest = str::from_utf8(&hex).ok().and_then(|hex| Digest::from_hex(Algorithm::Sha256, hex).ok());
                assert_eq!(digest.map(|digest| digest.hex().into_bytes()), is_digit.then_some(hex), "{byte} at {place}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_accepts_prints_the_same(text in "\\PC*") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn hashing_in_parts_is_hashing_the_whole(bytes: Vec<u8>, cut: prop::sample::Index) {
            for algorithm in Algorithm::ALL {
                let cut = cut.index(bytes.len() + 1);
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&bytes[..cut]);
                hasher.update(&bytes[cut..]);
                prop_assert_eq!(hasher.finish(), Digest::of(algorithm, &bytes));
            }
        }
    }
}

//! What can go wrong with an answer, and the builder methods that say it.
//! Descriptions only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Fault;

/// One thing that goes wrong. Offsets are in bytes of the body of that answer unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// This answer instead of the true one.
    Answer {
        /// The status code.
        status: u16,
        /// The header fields.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// Waits until the rule is released, the time has passed or the client leaves.
    Hold {
        /// Having sent so many bytes of the body; `None`: before the head.
        #[serde(default)]
        at: Option<u64>,
        /// For so many milliseconds; `None`: until the rule is released or removed.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Ends the connection.
    Cut {
        /// Having sent so many bytes of the body; `None`: before the head.
        #[serde(default)]
        at: Option<u64>,
        /// In this way.
        with: Ending,
    },
    /// Sends the body at this rate.
    Trickle {
        /// Bytes a second.
        rate: u64,
    },
    /// Flips all bits of a byte.
    Corrupt {
        /// The byte's offset in the whole blob or manifest, so that a Range without it is right.
        offset: u64,
    },
    /// Sends a body that is longer (by pseudo-random bytes) or shorter than it should be.
    Resize {
        /// By how many bytes.
        by: i64,
        /// What `Content-Length` says.
        declare: Declare,
    },
    /// Answers a Range with 200 and everything.
    IgnoreRange,
    /// Makes a 206 wrong.
    ShiftRange {
        /// Is added to the offsets in `Content-Range`.
        #[serde(default)]
        header: i64,
        /// Is added to the offset at which the body begins.
        #[serde(default)]
        body: i64,
    },
    /// Sends the body with `Content-Encoding: gzip`, though nobody asked.
    Gzip,
    /// Goes on with pseudo-random bytes where the body should end, and never ends; there is no `Content-Length`.
    Endless,
    /// Sends the body chunked, without `Content-Length`.
    Chunked,
    /// Sends the body without `Content-Length`, up to the end of the connection.
    CloseDelimited,
    /// Puts a header field in place of those of its name.
    SetHeader {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Leaves a header field out.
    RemoveHeader {
        /// Its name.
        name: String,
    },
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With FIN; over TLS, without `close_notify`. What was sent arrives.
    Fin,
    /// With RST. What the client's kernel had not yet taken is lost.
    Rst,
}

/// What the `Content-Length` of a resized body says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Declare {
    /// The length before.
    Original,
    /// The length after: a whole and consistent answer of the wrong size.
    Actual,
}

/// What an action needs to be there before it can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// A request.
    Request,
    /// An answer of success.
    Head,
    /// And a body.
    Body,
    /// And a range.
    Part,
}

impl Action {
    pub(super) fn stage(&self) -> Stage {
        match self {
            Action::Answer { .. } | Action::Hold { at: None, .. } | Action::Cut { at: None, .. } => Stage::Request,
            Action::Chunked | Action::CloseDelimited | Action::SetHeader { .. } | Action::RemoveHeader { .. } => Stage::Head,
            Action::Hold { at: Some(_), .. }
            | Action::Cut { at: Some(_), .. }
            | Action::Trickle { .. }
            | Action::Corrupt { .. }
            | Action::Resize { .. }
            | Action::Gzip
            | Action::Endless => Stage::Body,
            Action::IgnoreRange | Action::ShiftRange { .. } => Stage::Part,
        }
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Actions.
impl Fault {
    /// Answers with this status and an empty body.
    #[must_use]
    pub fn status(self, status: u16) -> Fault {
        self.answer(status, &[], "")
    }

    /// Answers with this instead.
    #[must_use]
    pub fn answer(self, status: u16, headers: &[(&str, &str)], body: &str) -> Fault {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.action(Action::Answer { status, headers: headers.iter().map(owned).collect(), body: body.to_owned() })
    }

    /// Answers with 200 and a web page, as captive portals and misconfigured proxies do.
    #[must_use]
    pub fn html(self) -> Fault {
        let page = "<!DOCTYPE html><html><body><h1>Please log in to the network</h1></body></html>";
        self.answer(200, &[("Content-Type", "text/html; charset=utf-8")], page)
    }

    /// Answers with 307 to this location.
    #[must_use]
    pub fn redirect(self, location: &str) -> Fault {
        self.answer(307, &[("Location", location)], "")
    }

    /// Answers with 416.
    #[must_use]
    pub fn range_not_satisfiable(self) -> Fault {
        self.answer(416, &[("Content-Range", "bytes */*")], "")
    }

    /// Waits so long before the answer.
    #[must_use]
    pub fn delay(self, duration: Duration) -> Fault {
        self.action(Action::Hold { at: None, for_ms: Some(whole_millis(duration)) })
    }

    /// Does not answer until released: a brown-out.
    #[must_use]
    pub fn hold(self) -> Fault {
        self.action(Action::Hold { at: None, for_ms: None })
    }

    /// Stops having sent so many bytes of the body, until released: a gate.
    #[must_use]
    pub fn hold_at(self, offset: u64) -> Fault {
        self.action(Action::Hold { at: Some(offset), for_ms: None })
    }

    /// Stops for so long having sent so many bytes of the body.
    #[must_use]
    pub fn stall_at(self, offset: u64, duration: Duration) -> Fault {
        self.action(Action::Hold { at: Some(offset), for_ms: Some(whole_millis(duration)) })
    }

    /// Closes the connection instead of an answer.
    #[must_use]
    pub fn close(self) -> Fault {
        self.action(Action::Cut { at: None, with: Ending::Fin })
    }

    /// Resets the connection instead of an answer.
    #[must_use]
    pub fn reset(self) -> Fault {
        self.action(Action::Cut { at: None, with: Ending::Rst })
    }

    /// Closes the connection having sent so many bytes of the body.
    #[must_use]
    pub fn cut_at(self, offset: u64) -> Fault {
        self.action(Action::Cut { at: Some(offset), with: Ending::Fin })
    }

    /// Resets the connection having sent so many bytes of the body.
    #[must_use]
    pub fn reset_at(self, offset: u64) -> Fault {
        self.action(Action::Cut { at: Some(offset), with: Ending::Rst })
    }

    /// Sends the body at so many bytes a second.
    #[must_use]
    pub fn trickle(self, rate: u64) -> Fault {
        self.action(Action::Trickle { rate })
    }

    /// Flips the byte at this offset of the content.
    #[must_use]
    pub fn corrupt(self, offset: u64) -> Fault {
        self.action(Action::Corrupt { offset })
    }

    /// Sends so many bytes more (less, if negative) than it declares.
    #[must_use]
    pub fn misdeclare(self, by: i64) -> Fault {
        self.action(Action::Resize { by, declare: Declare::Original })
    }

    /// Sends, and declares, so many bytes more (less, if negative) than the content has.
    #[must_use]
    pub fn resize(self, by: i64) -> Fault {
        self.action(Action::Resize { by, declare: Declare::Actual })
    }

    /// Answers a Range with 200 and everything.
    #[must_use]
    pub fn ignore_range(self) -> Fault {
        self.action(Action::IgnoreRange)
    }

    /// Answers a Range with the right bytes under a `Content-Range` that is off by so much.
    #[must_use]
    pub fn wrong_content_range(self, by: i64) -> Fault {
        self.action(Action::ShiftRange { header: by, body: 0 })
    }

    /// Answers a Range with bytes from an offset that is off by so much, under the right `Content-Range`.
    #[must_use]
    pub fn wrong_offset(self, by: i64) -> Fault {
        self.action(Action::ShiftRange { header: 0, body: by })
    }

    /// Answers a Range with another one, off by so much, and says so.
    #[must_use]
    pub fn other_range(self, by: i64) -> Fault {
        self.action(Action::ShiftRange { header: by, body: by })
    }

    /// Sends the body compressed though nobody asked.
    #[must_use]
    pub fn gzip(self) -> Fault {
        self.action(Action::Gzip)
    }

    /// Never ends the body.
    #[must_use]
    pub fn endless(self) -> Fault {
        self.action(Action::Endless)
    }

    /// Leaves out `Content-Length`: chunked.
    #[must_use]
    pub fn chunked(self) -> Fault {
        self.action(Action::Chunked)
    }

    /// Leaves out `Content-Length`: the body ends with the connection.
    #[must_use]
    pub fn close_delimited(self) -> Fault {
        self.action(Action::CloseDelimited)
    }

    /// Puts this header field in place of the true one.
    #[must_use]
    pub fn set_header(self, name: &str, value: &str) -> Fault {
        self.action(Action::SetHeader { name: name.to_owned(), value: value.to_owned() })
    }

    /// Leaves this header field out.
    #[must_use]
    pub fn remove_header(self, name: &str) -> Fault {
        self.action(Action::RemoveHeader { name: name.to_owned() })
    }

    /// States the digest of something else in `Docker-Content-Digest`.
    #[must_use]
    pub fn wrong_digest(self) -> Fault {
        let other = crate::Digest::sha256(b"something else");
        self.set_header("Docker-Content-Digest", other.as_str())
    }
}

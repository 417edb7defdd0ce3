//! The simulated upstream: a registry behind a network that is slow, goes down and goes wrong when the dice say so. It keeps
//! accounts of what it was asked, and says when it was asked twice what once would have told.

mod misfortune;
mod transfer;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, sleep};

use self::misfortune::{InBody, Misfortune};
use self::transfer::{Transfer, Until};
use super::dice::Dice;
use super::journal::Journal;
use super::library::{LIBRARY, short};
use crate::oci::{Digest, Reference, RepositoryName, Tag};
use crate::upstream::{Answer, ContentRange, Head, Method, Origin, Phase, Question, Target, UpstreamError};

/// How long it takes to find out that nothing is there, where packets vanish.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer's headers are waited for.
pub(super) const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);

/// After trouble, the gate looks whether it is over by asking again what it was asked already; by then, it has found out.
const LOOKED_AFTER: Duration = Duration::from_secs(60);

/// What the network and the registry are like.
#[derive(Clone, Debug)]
pub(super) struct Network {
    /// From a question to the headers of its answer, in milliseconds.
    pub(super) latency: Range<u64>,
    /// Of each connection, in bytes a second.
    pub(super) bandwidth: u64,
    /// Bytes that arrive in one go.
    pub(super) chunk: Range<u64>,
    /// Whether a HEAD of a tag tells a digest.
    pub(super) tells_digests: bool,
    /// One answer in so many goes wrong; `None` is fair weather.
    pub(super) misfortunes: Option<u64>,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub(super) struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    journal: Journal,
}

struct State {
    network: Network,
    dice: Dice,
    /// Whether nothing answers; if so, whether it says so at once.
    down: Option<bool>,
    /// Which image each tag of each repository points to: an index into the library.
    tags: HashMap<(RepositoryName, Tag), usize>,
    /// What each repository has.
    holdings: HashMap<RepositoryName, HashSet<Digest>>,
    /// Questions that have not been answered to the end.
    open: HashMap<String, usize>,
    accounts: HashMap<Digest, Account>,
    /// Contents of which something wrong was sent.
    tainted: HashSet<Digest>,
    tag_questions: HashMap<String, Instant>,
    /// When trouble ended.
    calm_since: Option<Instant>,
}

/// What was read of one content since the accounts were opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// How often a body was asked for.
    pub(super) reads: u64,
    /// Bytes that were sent.
    pub(super) bytes: u64,
    /// How often something went wrong with a question about it.
    pub(super) misfortunes: u64,
}

/// A question under way. It ends with its answer's body.
struct Open {
    registry: Registry,
    question: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(count) = self.registry.lock().open.get_mut(&self.question) {
            *count -= 1;
        }
    }
}

impl State {
    /// Whether nothing goes wrong, nor has for so long that nobody cares any more.
    fn is_fair(&self) -> bool {
        let is_calm = self.calm_since.is_none_or(|since| since.elapsed() >= LOOKED_AFTER);
        self.network.misfortunes.is_none() && self.down.is_none() && is_calm
    }
}

impl Registry {
    /// A registry whose `holdings` say which images each repository has.
    pub(super) fn new(network: Network, holdings: &[(RepositoryName, Vec<usize>)], dice: Dice, journal: Journal) -> Self {
        let content = |images: &[usize]| {
            let images = images.iter().flat_map(|image| LIBRARY.pulled_with(*image));
            images.flat_map(|image| image.blobs.iter().chain([&image.digest])).copied().collect()
        };
        let state = State {
            network,
            dice,
            down: None,
            tags: HashMap::new(),
            holdings: holdings.iter().map(|(repository, images)| (repository.clone(), content(images))).collect(),
            open: HashMap::new(),
            accounts: HashMap::new(),
            tainted: HashSet::new(),
            tag_questions: HashMap::new(),
            calm_since: None,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), journal }) }
    }

    pub(super) fn tag(&self, repository: &RepositoryName, tag: &Tag, image: usize) {
        self.shared.journal.note(format_args!("upstream: {tag} is {} from now on", short(&LIBRARY.images[image].digest)));
        self.lock().tags.insert((repository.clone(), tag.clone()), image);
    }

    /// What a tag points to now.
    pub(super) fn tagged(&self, repository: &RepositoryName, tag: &Tag) -> usize {
        self.lock().tags[&(repository.clone(), tag.clone())]
    }

    /// Takes it down (`Some`; whether it refuses connections or is silent) or back up.
    pub(super) fn set_down(&self, down: Option<bool>) {
        self.shared.journal.note(format_args!("upstream: down: {down:?}"));
        let mut state = self.lock();
        state.down = down;
        state.calm_since = Some(Instant::now());
    }

    pub(super) fn end_misfortunes(&self) {
        self.shared.journal.note("upstream: fair weather");
        let mut state = self.lock();
        state.network.misfortunes = None;
        state.calm_since = Some(Instant::now());
    }

    pub(super) fn holds(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        self.lock().holdings[repository].contains(digest)
    }

    /// Whether something wrong was ever sent in place of the content.
    pub(super) fn is_tainted(&self, digest: &Digest) -> bool {
        self.lock().tainted.contains(digest)
    }

    /// Of how many contents something wrong was sent.
    pub(super) fn count_tainted(&self) -> usize {
        self.lock().tainted.len()
    }

    /// Closes the accounts, and gives them.
    pub(super) fn settle_accounts(&self) -> Vec<(Digest, Account)> {
        let mut state = self.lock();
        state.tag_questions.clear();
        state.calm_since = None;
        state.open.clear();
        let mut accounts: Vec<_> = state.accounts.drain().collect();
        accounts.sort_unstable_by_key(|(digest, _)| *digest);
        accounts
    }

    /// The most that one connection can bring beyond what it was asked for.
    pub(super) fn largest_chunk(&self) -> u64 {
        self.lock().network.chunk.end
    }

    /// How long it takes to get `bytes` bytes over one connection, at the most, when nothing goes wrong.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        let Network { latency, bandwidth, chunk, .. } = self.lock().network.clone();
        // A pause is a millisecond longer than it should be, at the most.
        let chunks = bytes / chunk.end.div_ceil(4).max(1) + 1;
        Duration::from_millis(latency.end + bytes * 1000 / bandwidth + chunks * 2)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a question into the accounts, and says what will go wrong with it.
    fn enter(&self, question: &Question, text: &str) -> (Open, Option<Misfortune>) {
        let journal = &self.shared.journal;
        let mut guard = self.lock();
        let state = &mut *guard;
        let is_fair = state.is_fair();
        let open = state.open.entry(text.to_owned()).or_default();
        *open += 1;
        // Parts of one blob may be asked for at once, and a blob that passes through is asked for by each client.
        let is_blob_body = matches!(question.target, Target::Blob(_)) && question.method != Method::Head;
        // Where HEAD is not understood, a GET takes its place, beside that of who wants the content; and the gate looks by HEAD
        // whether an answer is to be had again that somebody still waits for.
        let beside = match question.method {
            Method::Get => state.network.misfortunes.is_some(),
            Method::Head => !is_fair,
            Method::GetRange { .. } => false,
        };
        let most = if beside { 2 } else { 1 };
        if *open > most && !is_blob_body {
            journal.violation(format_args!("P4: {text} is asked {open} times at once"));
        }
        let misfortune = match state.network.misfortunes {
            Some(times) if state.down.is_none() && state.dice.one_in(times) => Some(Misfortune::roll(&mut state.dice, question)),
            _ => None,
        };
        if let Some(digest) = digest_of(question).filter(|_| !journal.is_closed()) {
            let account = state.accounts.entry(digest).or_default();
            account.reads += u64::from(question.method != Method::Head);
            account.misfortunes += u64::from(misfortune.is_some() || state.down.is_some());
        }
        match &misfortune {
            Some(misfortune) => journal.note(format_args!("upstream: {text}: {misfortune:?}")),
            None => journal.note(format_args!("upstream: {text}")),
        }
        (Open { registry: self.clone(), question: text.to_owned() }, misfortune)
    }

    /// Notes that a tag is asked for, and says how long ago it last was.
    pub(super) fn since_last_asked(&self, text: &str) -> Option<Duration> {
        let now = Instant::now();
        self.lock().tag_questions.insert(text.to_owned(), now).map(|last| now - last)
    }

    /// As [`State::is_fair`].
    pub(super) fn is_fair(&self) -> bool {
        self.lock().is_fair()
    }

    async fn answer(
        self,
        question: Question,
        text: String,
        open: Open,
        misfortune: Option<Misfortune>,
    ) -> Result<Answer, UpstreamError> {
        let down = self.lock().down;
        if let Some(refuses) = down {
            let silent = !refuses;
            sleep(if silent { CONNECT_TIMEOUT } else { Duration::from_millis(1) }).await;
            return Err(match silent {
                true => UpstreamError::Timeout { phase: Phase::Connect },
                false => UpstreamError::Unreachable { reason: "nobody listens".to_owned() },
            });
        }
        let latency = {
            let mut state = self.lock();
            let range = state.network.latency.clone();
            state.dice.millis(range)
        };
        sleep(latency).await;
        let in_body = match misfortune {
            Some(Misfortune::Silence) => {
                sleep(HEADERS_TIMEOUT).await;
                return Err(UpstreamError::Timeout { phase: Phase::Headers });
            }
            Some(Misfortune::Error(error)) => return Err(error),
            Some(Misfortune::InBody(in_body)) => Some(in_body),
            None => None,
        };
        let found = self.find(&question)?;
        self.shared.journal.note(format_args!("upstream: {text}: answers"));
        Ok(self.send(&question, found, in_body, open))
    }

    /// The content that is asked for, if the repository has it.
    fn find(&self, question: &Question) -> Result<Found, UpstreamError> {
        let state = self.lock();
        let Question { repository, target, .. } = question;
        let digest = match target {
            Target::Manifest(Reference::Tag(tag)) => {
                let image = state.tags.get(&(repository.clone(), tag.clone())).ok_or(UpstreamError::NotFound)?;
                LIBRARY.images[*image].digest
            }
            Target::Manifest(Reference::Digest(digest)) | Target::Blob(digest) => *digest,
            Target::Tags { .. } | Target::Referrers { .. } => return Err(UpstreamError::NotFound),
        };
        if !state.holdings.get(repository).is_some_and(|holdings| holdings.contains(&digest)) {
            return Err(UpstreamError::NotFound);
        }
        let is_blob = matches!(target, Target::Blob(_));
        let tells_digest = state.network.tells_digests || !matches!(target, Target::Manifest(Reference::Tag(_)));
        let media_type = LIBRARY.image(&digest).filter(|_| !is_blob).map(|image| image.media_type.clone());
        let head = Head { content_type: media_type, digest: (tells_digest && !is_blob).then_some(digest), ..Head::default() };
        Ok(Found { digest, bytes: LIBRARY.bytes(&digest).expect("it is held").clone(), head })
    }

    /// The answer's head, and its body as it will arrive.
    fn send(&self, question: &Question, found: Found, in_body: Option<InBody>, open: Open) -> Answer {
        let Found { digest, bytes, mut head } = found;
        // Where no digest vouches for a manifest, nobody can tell wrong bytes from right ones.
        let is_verifiable = head.digest.is_some() || digest_of(question).is_some();
        let in_body = in_body.filter(|in_body| is_verifiable || !in_body.is_lie());
        let size = bytes.len() as u64;
        if question.method == Method::Head {
            head.content_length = Some(size);
            drop(open);
            return Answer { head, body: stream::empty().boxed() };
        }
        let mut part = match question.method {
            Method::GetRange { first, last } if in_body != Some(InBody::WholeInsteadOfPart) => {
                first.min(size)..last.map_or(size, |last| size.min(last + 1))
            }
            _ => 0..size,
        };
        let is_part = matches!(question.method, Method::GetRange { .. }) && in_body != Some(InBody::WholeInsteadOfPart);
        if let Some(InBody::OtherPart { by }) = in_body.filter(|_| is_part) {
            // It sends another part than it was asked for, and says so.
            part.start = if part.start >= by { part.start - by } else { (part.start + by).min(part.end) };
        }
        if is_part {
            let last = part.end.saturating_sub(1);
            head.content_range = Some(ContentRange { first: part.start, last, size: Some(size) });
        }
        let mut bytes = bytes.slice(usize_of(part.start)..usize_of(part.end));
        head.content_length = Some(bytes.len() as u64);
        let mut until = Until::End;
        let mut is_slow = false;
        match in_body {
            Some(InBody::Cut { after }) => until = Until::Cut(after),
            Some(InBody::Stall { after }) => until = Until::Stalled(after),
            Some(InBody::Trickle) => is_slow = true,
            Some(InBody::NoLength) => head.content_length = None,
            Some(InBody::WrongByte { at }) if !bytes.is_empty() => {
                let mut wrong = bytes.to_vec();
                wrong[usize_of(at % bytes.len() as u64)] ^= 0x20;
                bytes = wrong.into();
                self.taint(digest);
            }
            Some(InBody::OtherSize { by, is_told }) => {
                let shorter = bytes.len().saturating_sub(usize_of(by));
                bytes = if by % 2 == 0 { bytes.slice(..shorter) } else { [&bytes[..], &vec![7; usize_of(by)]].concat().into() };
                head.content_length = is_told.then_some(bytes.len() as u64);
                self.taint(digest);
            }
            _ => {}
        }
        let body = Transfer::new(self.clone(), digest_of(question), bytes, until, is_slow, open).into_body();
        Answer { head, body }
    }

    fn taint(&self, digest: Digest) {
        self.lock().tainted.insert(digest);
    }
}

/// What there is to send.
struct Found {
    digest: Digest,
    bytes: Bytes,
    head: Head,
}

/// The registry as the gate sees it.
pub(super) struct SimulatedOrigin(pub(super) Registry);

impl Origin for SimulatedOrigin {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, UpstreamError>> {
        let text = describe(&question);
        let (open, misfortune) = self.0.enter(&question, &text);
        self.0.clone().answer(question, text, open, misfortune).boxed()
    }
}

/// The digest that is asked for, if it is not a tag.
fn digest_of(question: &Question) -> Option<Digest> {
    match &question.target {
        Target::Manifest(Reference::Digest(digest)) | Target::Blob(digest) => Some(*digest),
        _ => None,
    }
}

pub(super) fn describe(question: &Question) -> String {
    let target = match &question.target {
        Target::Manifest(Reference::Tag(tag)) => format!("manifest {tag}"),
        Target::Manifest(Reference::Digest(digest)) => format!("manifest {}", short(digest)),
        Target::Blob(digest) => format!("blob {}", short(digest)),
        Target::Tags { .. } => "tags".to_owned(),
        Target::Referrers { digest, .. } => format!("referrers {}", short(digest)),
    };
    let range = match question.method {
        Method::GetRange { first, last: Some(last) } => format!(" from {first} to {last}"),
        Method::GetRange { first, last: None } => format!(" from {first}"),
        Method::Get | Method::Head => String::new(),
    };
    format!("{} {} {target}{range}", question.method.as_str(), question.repository)
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).expect("content in memory is not larger than that")
}

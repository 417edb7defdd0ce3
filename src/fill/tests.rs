//! Fills against an upstream whose every answer is scripted, over a real store.

mod healing;
mod locate;
mod trickle;
mod unwritten;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::*;
use crate::store::{FileSystem, OsFileSystem, PartMap, StoreConfig};
use crate::upstream::{Answer, ContentRange, Head, Method, Question, UpstreamError};
use crate::util::SystemClock;

/// How an upstream answers one question.
enum Script {
    Fail(UpstreamError),
    Panic,
    Body {
        head: Box<Head>,
        /// Chunks; `None` cuts the connection.
        chunks: Vec<Option<Bytes>>,
    },
}

/// An upstream that answers as scripted, and hands out a chunk for each permit.
struct Scripted {
    scripts: Mutex<VecDeque<Script>>,
    asked: Mutex<Vec<Method>>,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct Counts {
    joined: AtomicUsize,
    resumed: AtomicUsize,
    ended: AtomicUsize,
    rejected: AtomicUsize,
}

struct Bed {
    dir: tempfile::TempDir,
    store: Store,
    fills: Fills,
    origin: Arc<Scripted>,
    source: Source,
    counts: Arc<Counts>,
}

impl Origin for Scripted {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, UpstreamError>> {
        self.asked.lock().unwrap().push(question.method);
        let script = self.scripts.lock().unwrap().pop_front().expect("nobody asks more than is scripted");
        let permits = Arc::clone(&self.permits);
        async move {
            match script {
                Script::Fail(error) => Err(error),
                Script::Panic => panic!("as the test wants"),
                Script::Body { head, chunks } => {
                    let body = stream::iter(chunks).then(move |chunk| {
                        let permits = Arc::clone(&permits);
                        async move {
                            permits.acquire().await.unwrap().forget();
                            chunk.ok_or_else(|| UpstreamError::Broken { reason: "cut".to_owned() })
                        }
                    });
                    Ok(Answer { head: *head, body: body.boxed() })
                }
            }
        }
        .boxed()
    }
}

impl Observer for Counts {
    fn joined(&self) {
        self.joined.fetch_add(1, Ordering::SeqCst);
    }

    fn ended(&self, _: &Source, _: Option<&FillError>, _: bool) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    fn rejected(&self, _: &Source, _: &FillError) {
        self.rejected.fetch_add(1, Ordering::SeqCst);
    }

    fn resumed(&self, _: &Source) {
        self.resumed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bed {
    fn new(scripts: Vec<Script>) -> Self {
        Self::with_room(1 << 30, scripts)
    }

    fn with_room(max_bytes: u64, scripts: Vec<Script>) -> Self {
        Self::on(Arc::new(OsFileSystem), max_bytes, scripts)
    }

    fn on(fs: Arc<dyn FileSystem>, max_bytes: u64, scripts: Vec<Script>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { dir: dir.path().join("cache"), max_bytes };
        let store = Store::open(config, fs, Arc::new(SystemClock)).unwrap();
        // While it walks through its folder it may refuse room that there is.
        while store.stats().walking {
            std::thread::sleep(Duration::from_millis(1));
        }
        let counts = Arc::new(Counts::default());
        let observer: Arc<dyn Observer> = Arc::<Counts>::clone(&counts);
        let fills = Fills::new(
            store.clone(),
            Limits {
                lanes: Lanes { for_speed: 1, for_readers: 1, extra_per_upstream: 0, extra_overall: 0 },
                unread_bytes: 1 << 30,
            },
            observer,
        );
        let permits = Arc::new(Semaphore::new(0));
        let origin = Arc::new(Scripted { scripts: Mutex::new(scripts.into()), asked: Mutex::default(), permits });
        let source = Source {
            upstream: "docker.io".parse().unwrap(),
            repository: "library/x".parse().unwrap(),
            origin: Arc::<Scripted>::clone(&origin),
            caller: Caller::Larder,
        };
        Self { dir, store, fills, origin, source, counts }
    }

    /// Lets the upstream send this many more chunks.
    fn permit(&self, chunks: usize) {
        self.origin.permits.add_permits(chunks);
    }

    fn begin(&self, digest: Digest) -> Arc<Fill> {
        match self.fills.fill(digest, &self.source, None, None) {
            Joined::Began(fill) | Joined::InFlight(fill) => fill,
            Joined::Broken(error) => panic!("refused: {error}"),
        }
    }

    fn fills_with(&self, unread_bytes: u64) -> Fills {
        let lanes = Lanes { for_speed: 1, for_readers: 1, extra_per_upstream: 0, extra_overall: 0 };
        Fills::new(self.store.clone(), Limits { lanes, unread_bytes }, Arc::clone(&self.counts) as Arc<dyn Observer>)
    }

    /// A part is removed, or kept, on a thread of its own.
    async fn until_reserved(&self, bytes: usize) {
        let waiting = async {
            while self.store.stats().reserved != bytes as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("what is not needed is given back");
    }

    /// What is at rest.
    async fn shelved(&self, digest: &Digest) -> Shelved {
        let content = self.store.get(digest).await.unwrap();
        Shelved { content, digest: *digest, fills: self.fills.clone(), source: self.source.clone() }
    }

    async fn until_landed(&self) {
        while self.fills.count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

const CHUNK: usize = 50_000;

/// Longer than a content goes on without a reader.
const UNREAD_LONG: Duration = Duration::from_secs(15);

fn content(chunks: usize) -> Bytes {
    (0..chunks * CHUNK).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect::<Vec<_>>().into()
}

/// `content` from `from` on, in chunks, cut after `cut_after` of them.
fn body(content: &Bytes, from: usize, cut_after: Option<usize>) -> Script {
    let content_range =
        (from > 0).then(|| ContentRange { first: from as u64, last: content.len() as u64 - 1, size: Some(content.len() as u64) });
    let head = Head { content_length: Some((content.len() - from) as u64), content_range, ..Head::default() };
    let mut chunks: Vec<_> = content[from..].chunks(CHUNK).map(|chunk| Some(Bytes::copy_from_slice(chunk))).collect();
    if let Some(cut_after) = cut_after {
        chunks.truncate(cut_after);
        chunks.push(None);
    }
    Script::Body { head: Box::new(head), chunks }
}

/// Of a content of that size, the first `len` bytes are there.
fn beginning(size: usize, len: usize) -> PartMap {
    PartMap { size: size as u64, extents: std::iter::once(0..len as u64).collect() }
}

async fn read(fill: &Arc<Fill>) -> (Vec<u8>, Option<FillError>) {
    rest(Readable::InFlight(Arc::clone(fill)).read_all(), Vec::new()).await
}

/// What was got already and all that comes after it, with the error that ends it.
async fn rest(mut stream: ByteStream, mut got: Vec<u8>) -> (Vec<u8>, Option<FillError>) {
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(error) => return (got, Some(error)),
        }
    }
    (got, None)
}

#[tokio::test]
async fn what_has_arrived_is_read_at_once_and_the_tail_waits_for_the_digest() {
    let content = content(4);
    let bed = Bed::new(vec![body(&content, 0, None)]);
    let fill = bed.begin(Digest::sha256(&content));
    assert_eq!(fill.opened().await.unwrap(), Some(content.len() as u64));
    let mut stream = Readable::InFlight(Arc::clone(&fill)).read_all();
    bed.permit(1);
    assert_eq!(stream.next().await.unwrap().unwrap(), content[..CHUNK]);
    // All but the last chunk has arrived: what comes out ends where the withheld tail begins.
    bed.permit(2);
    let mut got = CHUNK;
    while got < content.len() - WITHHELD_TAIL as usize {
        got += stream.next().await.unwrap().unwrap().len();
    }
    assert_eq!(got, content.len() - WITHHELD_TAIL as usize);
    assert!(stream.next().now_or_never().is_none(), "the tail came before the digest was known");
    // A late joiner has it all from the beginning.
    let late = tokio::spawn({
        let fill = bed.begin(*fill.digest());
        async move { read(&fill).await }
    });
    bed.permit(1);
    while let Some(chunk) = stream.next().await {
        got += chunk.unwrap().len();
    }
    assert_eq!(got, content.len());
    assert_eq!(late.await.unwrap().0, content);
    bed.until_landed().await;
    assert_eq!(bed.store.get(fill.digest()).await.unwrap().size, content.len() as u64);
    assert_eq!((bed.origin.asked.lock().unwrap().len(), bed.counts.joined.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn what_has_landed_since_somebody_looked_is_not_fetched_again() {
    let contents = [content(1), content(2)];
    let bed = Bed::new(contents.iter().map(|content| body(content, 0, None)).collect());
    bed.permit(3);
    let early = bed.fills.moment();
    for content in &contents {
        let digest = Digest::sha256(content);
        // The first time nothing has landed since, the second time another one.
        let Joined::Began(fill) = bed.fills.fill(digest, &bed.source, None, Some(early)) else { panic!("it is not refused") };
        assert_eq!(read(&fill).await.0, *content);
        bed.until_landed().await;
    }
    for content in &contents {
        let Joined::Began(fill) = bed.fills.fill(Digest::sha256(content), &bed.source, None, Some(early)) else {
            panic!("it is not refused")
        };
        assert_eq!(read(&fill).await.0, *content);
        bed.until_landed().await;
    }
    assert_eq!(bed.origin.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_fill_goes_on_when_nobody_reads() {
    let content = content(3);
    let bed = Bed::new(vec![body(&content, 0, None)]);
    let fill = bed.begin(Digest::sha256(&content));
    let mut stream = Readable::InFlight(Arc::clone(&fill)).read_all();
    bed.permit(1);
    stream.next().await.unwrap().unwrap();
    drop(stream);
    bed.permit(2);
    bed.until_landed().await;
    assert!(bed.store.get(&Digest::sha256(&content)).await.is_some());
}

#[tokio::test]
async fn wrong_bytes_are_neither_complete_nor_kept() {
    let content = content(3);
    let bed = Bed::new(vec![body(&content, 0, None)]);
    let asked_for = Digest::sha256(b"something else");
    let fill = bed.begin(asked_for);
    bed.permit(3);
    let (got, error) = read(&fill).await;
    assert!(got.len() as u64 <= content.len() as u64 - WITHHELD_TAIL, "{} bytes came out", got.len());
    assert!(matches!(error, Some(FillError::WrongDigest { .. })), "{error:?}");
    bed.until_landed().await;
    assert!(bed.store.get(&asked_for).await.is_none());
    assert_eq!(bed.store.stats().reserved, 0);
    assert!(matches!(bed.fills.fill(asked_for, &bed.source, None, None), Joined::Broken(_)), "it was begun again at once");
}

#[tokio::test]
async fn a_body_that_is_cut_goes_on_where_it_stood() {
    let content = content(4);
    // Cut in the middle; then an upstream that ignores Range; then a right 206.
    let bed = Bed::new(vec![body(&content, 0, Some(1)), body(&content, 0, Some(2)), body(&content, 2 * CHUNK, None)]);
    let fill = bed.begin(Digest::sha256(&content));
    bed.permit(100);
    assert_eq!(read(&fill).await.0, content);
    let from = |chunks: usize| Method::GetRange { first: (chunks * CHUNK) as u64, last: None };
    assert_eq!(*bed.origin.asked.lock().unwrap(), [Method::Get, from(1), from(2)]);
    assert_eq!(bed.counts.resumed.load(Ordering::SeqCst), 2);
}

/// An upstream that is left alone for a while after it has failed.
fn suspended(retry_after: Duration) -> Script {
    suspended_by(UpstreamError::Unreachable { reason: "refused".to_owned() }, retry_after)
}

fn suspended_by(cause: UpstreamError, retry_after: Duration) -> Script {
    Script::Fail(UpstreamError::Suspended { cause: Box::new(cause), retry_after })
}

#[tokio::test]
async fn an_upstream_that_is_left_alone_for_a_moment_is_waited_for_by_who_has_seen_it_fail() {
    let content = content(4);
    let brief = Duration::from_millis(20);
    let failure = || Script::Fail(UpstreamError::status(503));
    for scripts in [
        vec![failure(), suspended(brief), body(&content, 0, None)],
        vec![body(&content, 0, Some(1)), suspended(brief), body(&content, CHUNK, None)],
    ] {
        let bed = Bed::new(scripts);
        let fill = bed.begin(Digest::sha256(&content));
        bed.permit(100);
        assert!(read(&fill).await.0 == content);
        bed.until_landed().await;
    }

    for scripts in [vec![suspended(brief)], vec![failure(), suspended(Duration::from_secs(60))]] {
        let bed = Bed::new(scripts);
        let error = bed.begin(Digest::sha256(&content)).opened().await.unwrap_err();
        assert!(matches!(error, FillError::Upstream(UpstreamError::Suspended { .. })), "{error}");
    }
}

/// An upstream that answers, if with errors, may be better in a moment: that costs no try.
#[tokio::test]
async fn an_upstream_that_flaps_is_waited_for_by_who_has_just_come() {
    let content = content(4);
    let flapping = || suspended_by(UpstreamError::status(503), Duration::from_millis(20));
    let bed = Bed::new((0..5).map(|_| flapping()).chain([body(&content, 0, None)]).collect());
    let fill = bed.begin(Digest::sha256(&content));
    bed.permit(100);
    assert!(read(&fill).await.0 == content);
    bed.until_landed().await;

    let down = suspended_by(UpstreamError::status(503), Duration::from_secs(8));
    let error = Bed::new(vec![down]).begin(Digest::sha256(&content)).opened().await.unwrap_err();
    assert!(matches!(error, FillError::Upstream(UpstreamError::Suspended { .. })), "{error}");
}

#[tokio::test]
async fn the_wrong_part_of_a_body_is_never_spliced_in() {
    let content = content(4);
    let bed = Bed::new(vec![
        body(&content, 0, Some(1)),
        body(&content, 3 * CHUNK, None),
        body(&content, 2 * CHUNK, None),
        body(&content, CHUNK, None),
    ]);
    let fill = bed.begin(Digest::sha256(&content));
    bed.permit(100);
    assert_eq!(read(&fill).await.0, content);
}

#[tokio::test]
async fn an_upstream_that_stays_broken_is_given_up() {
    let content = content(2);
    let cut = || body(&content, CHUNK, Some(0));
    let bed = Bed::new(vec![body(&content, 0, Some(1)), cut(), cut(), cut()]);
    let fill = bed.begin(Digest::sha256(&content));
    bed.permit(100);
    let (got, error) = read(&fill).await;
    assert!(got.len() <= CHUNK && matches!(error, Some(FillError::Upstream(UpstreamError::Broken { .. }))), "{error:?}");
    bed.until_landed().await;
    bed.until_reserved(CHUNK).await;
    let (_, map) = bed.store.resume(*fill.digest(), None).await.expect("what has arrived is kept");
    assert_eq!(map, beginning(content.len(), CHUNK));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_fill_is_gone_on_with() {
    let content = content(6);
    let cut = |from, chunks| body(&content, from * CHUNK, Some(chunks));
    let bed = Bed::new(vec![cut(0, 2), cut(2, 0), cut(2, 0), cut(2, 0), body(&content, 2 * CHUNK, None)]);
    let digest = Digest::sha256(&content);
    bed.permit(100);
    let fill = bed.begin(digest);
    assert!(read(&fill).await.1.is_some());
    bed.until_landed().await;
    bed.until_reserved(2 * CHUNK).await;
    tokio::time::sleep(REFUSED_AFTER_BREAK).await;
    assert_eq!(read(&bed.begin(digest)).await.0, content);
    bed.until_landed().await;
    assert_eq!(bed.store.get(&digest).await.unwrap().size, content.len() as u64);
    assert_eq!(bed.origin.asked.lock().unwrap().last(), Some(&Method::GetRange { first: 2 * CHUNK as u64, last: None }));
    bed.until_reserved(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_damaged_is_nobodys_fault_and_is_not_tried_again() {
    let content = content(6);
    let bed = Bed::new(vec![body(&content, 2 * CHUNK, None), body(&content, 0, None)]);
    let digest = Digest::sha256(&content);
    let size = content.len() as u64;
    let ingest = bed.store.begin(digest, Some(size)).await.unwrap();
    ingest.writer().write_all_at(&vec![7; 2 * CHUNK], 0).unwrap();
    ingest.note(beginning(content.len(), 2 * CHUNK)).await;
    drop(ingest);
    bed.until_reserved(2 * CHUNK).await;
    bed.permit(100);
    let (got, error) = read(&bed.begin(digest)).await;
    assert!(got.len() as u64 <= size - WITHHELD_TAIL && matches!(error, Some(FillError::BadPart)), "{error:?}");
    bed.until_landed().await;
    bed.until_reserved(0).await;
    assert_eq!(bed.counts.rejected.load(Ordering::SeqCst), 0);
    assert_eq!(read(&bed.begin(digest)).await.0, content, "the next one begins at once, and anew");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_refuses_a_range_is_asked_for_the_whole() {
    let content = content(4);
    let bed =
        Bed::new(vec![body(&content, 0, Some(1)), Script::Fail(UpstreamError::RangeNotSatisfiable), body(&content, 0, None)]);
    let fill = bed.begin(Digest::sha256(&content));
    bed.permit(100);
    assert_eq!(read(&fill).await.0, content);
    let from = |chunks: usize| Method::GetRange { first: (chunks * CHUNK) as u64, last: None };
    assert_eq!(*bed.origin.asked.lock().unwrap(), [Method::Get, from(1), Method::Get]);
}

#[tokio::test(start_paused = true)]
async fn a_large_content_that_nobody_reads_is_left_and_gone_on_with() {
    let content = content(8);
    // A connection that brings nothing for long is replaced, once in each fill.
    let bodies = [0, 3, 3, 5].map(|chunks| body(&content, chunks * CHUNK, None));
    let mut bed = Bed::new(bodies.into());
    bed.fills = bed.fills_with(3 * CHUNK as u64);
    let digest = Digest::sha256(&content);
    let fill = bed.begin(digest);
    let reader = tokio::spawn(async move { read(&fill).await });
    bed.permit(3);
    tokio::time::sleep(UNREAD_LONG).await;
    assert_eq!(bed.fills.count(), 1, "somebody reads it");
    reader.abort();
    tokio::time::sleep(UNREAD_LONG).await;
    assert_eq!(bed.fills.count(), 0);
    bed.until_reserved(3 * CHUNK).await;
    // What is nearly complete goes on.
    let fill = bed.begin(digest);
    bed.permit(2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(fill);
    tokio::time::sleep(UNREAD_LONG).await;
    assert_eq!(bed.fills.count(), 1);
    bed.permit(3);
    bed.until_landed().await;
    assert_eq!(bed.store.get(&digest).await.unwrap().size, content.len() as u64);
}

#[tokio::test]
async fn a_refusal_before_the_first_byte_is_not_held_against_the_next_request() {
    let content = content(1);
    let denied = || Script::Fail(UpstreamError::NotFound);
    let bed = Bed::new(vec![denied(), body(&content, 0, None)]);
    let digest = Digest::sha256(&content);
    let error = bed.begin(digest).opened().await.unwrap_err();
    assert!(matches!(error, FillError::Upstream(UpstreamError::NotFound)));
    bed.until_landed().await;
    bed.permit(1);
    assert_eq!(read(&bed.begin(digest)).await.0, content);
}

#[tokio::test]
async fn an_upstream_without_a_length_is_read_to_its_end() {
    let content = content(3);
    let chunks = content.chunks(CHUNK).map(|chunk| Some(Bytes::copy_from_slice(chunk))).collect();
    let bed = Bed::new(vec![Script::Body { head: Box::default(), chunks }]);
    let fill = bed.begin(Digest::sha256(&content));
    assert_eq!(fill.opened().await.unwrap(), None);
    bed.permit(3);
    assert_eq!(fill.size().await.unwrap(), content.len() as u64);
    assert_eq!(read(&fill).await.0, content);
}

#[tokio::test]
async fn a_size_that_is_not_the_manifests_is_refused() {
    let content = content(2);
    let bed = Bed::new(vec![body(&content, 0, None)]);
    let Joined::Began(fill) = bed.fills.fill(Digest::sha256(&content), &bed.source, Some(5), None) else {
        panic!("begun by nobody else")
    };
    assert!(matches!(fill.opened().await, Err(FillError::WrongSize { expected: 5, .. })));
}

#[tokio::test]
async fn no_room_is_said_before_the_body_begins() {
    let content = content(2);
    let bed = Bed::with_room(1000, vec![body(&content, 0, None)]);
    let error = bed.begin(Digest::sha256(&content)).opened().await.unwrap_err();
    assert!(error.is_local(), "{error}");
}

/// Who joined a content in flight reads it to its end when it is long at rest: until then it does not go.
#[tokio::test]
async fn what_is_read_from_its_fill_is_not_evicted_when_it_is_at_rest() {
    let content = content(4);
    let (digest, size) = (Digest::sha256(&content), content.len() as u64);
    let bed = Bed::with_room(size + 1000, vec![body(&content, 0, None)]);
    let fill = bed.begin(digest);
    let mut reader = Readable::InFlight(Arc::clone(&fill)).read_all();
    drop(fill);
    bed.permit(4);
    let mut received = reader.next().await.unwrap().unwrap().to_vec();
    bed.until_landed().await;
    let other = Digest::sha256(b"other");
    assert!(bed.store.begin(other, Some(2000)).await.is_err(), "there is room for what is read, or for that");
    while let Some(bytes) = reader.next().await {
        received.extend_from_slice(&bytes.unwrap());
    }
    assert!(received == content);
    drop(reader);
    assert!(bed.store.get(&digest).await.is_some());
    drop(bed.store.begin(other, Some(2000)).await.unwrap());
    assert!(bed.store.get(&digest).await.is_none(), "nobody reads it any more");
}

#[tokio::test]
async fn a_panic_in_a_fill_ends_that_fill_alone() {
    let content = content(1);
    let bed = Bed::new(vec![Script::Panic, body(&content, 0, None)]);
    let digest = Digest::sha256(&content);
    assert!(matches!(bed.begin(digest).opened().await, Err(FillError::Abandoned)));
    bed.until_landed().await;
    assert_eq!(bed.counts.ended.load(Ordering::SeqCst), 1);
    bed.permit(1);
    assert_eq!(read(&bed.begin(digest)).await.0, content);
}

#[tokio::test]
async fn any_range_is_read_right_while_it_arrives() {
    let content = content(4);
    let bed = Bed::new(vec![body(&content, 0, None)]);
    let fill = bed.begin(Digest::sha256(&content));
    let size = content.len();
    let ranges = [0..1, 0..size, size - 1..size, CHUNK - 1..CHUNK + 1, 3 * CHUNK..size, 17..2 * CHUNK + 3];
    let reads = ranges.map(|range| {
        let stream = Readable::InFlight(Arc::clone(&fill)).read(range.start as u64..range.end as u64);
        let expected = content.slice(range);
        tokio::spawn(async move {
            let got: Vec<u8> = stream.map(|chunk| chunk.unwrap().to_vec()).concat().await;
            assert_eq!(got, expected);
        })
    });
    for _ in 0..4 {
        bed.permit(1);
        tokio::task::yield_now().await;
    }
    for read in reads {
        read.await.unwrap();
    }
}

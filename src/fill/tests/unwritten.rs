//! The first bytes go out while they are being written.

use std::sync::mpsc;

use super::*;
use crate::store::tests::support::FaultFs;

/// Runs `test` where one thread does all that may block.
fn with_one_thread_for_the_disk(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap().block_on(test);
}

/// Keeps that thread from doing anything until what this gives is dropped.
async fn stall_the_disk() -> mpsc::Sender<()> {
    let (end, ended) = mpsc::channel();
    let (stall, stalled) = tokio::sync::oneshot::channel();
    crate::util::blocking(move || {
        stall.send(()).unwrap();
        // An error is what it waits for.
        let _ = ended.recv();
    });
    stalled.await.unwrap();
    end
}

/// A fill that the upstream has answered, while nothing can be written.
async fn begun(bed: &Bed, digest: Digest) -> (Readable, mpsc::Sender<()>) {
    let fill = bed.begin(digest);
    fill.opened().await.unwrap();
    (Readable::InFlight(fill), stall_the_disk().await)
}

async fn next(stream: &mut ByteStream) -> Bytes {
    let next = tokio::time::timeout(Duration::from_secs(30), stream.next());
    next.await.expect("the disk is not waited for").unwrap().unwrap()
}

async fn is_silent(stream: &mut ByteStream) -> bool {
    tokio::time::timeout(Duration::from_millis(50), stream.next()).await.is_err()
}

#[test]
fn who_waits_for_the_first_bytes_does_not_wait_for_the_disk() {
    with_one_thread_for_the_disk(async {
        let content = content(40);
        let bed = Bed::new(vec![body(&content, 0, None)]);
        let (readable, stall) = begun(&bed, Digest::sha256(&content)).await;
        let end = content.len() as u64;
        let mut streams = [readable.read_all(), locate::taken(readable.locate_all()), readable.read(0..end)];
        let mut inside = readable.read(11_000..30_000);
        bed.permit(2);
        for stream in &mut streams {
            assert!(next(stream).await == content[..CHUNK]);
            assert!(is_silent(stream).await, "the others are written first");
        }
        assert!(next(&mut inside).await == content[11_000..30_000] && inside.next().await.is_none());
        drop(stall);
        bed.permit(38);
        for stream in streams {
            let (got, error) = rest(stream, content[..CHUNK].to_vec()).await;
            assert!(error.is_none() && got == content, "{error:?}");
        }
        bed.until_landed().await;
        assert!(bed.store.get(&Digest::sha256(&content)).await.is_some());
    });
}

#[test]
fn it_is_a_piece_that_does_not_wait_and_none_of_the_tail() {
    with_one_thread_for_the_disk(async {
        for (chunks, given) in [(40, 64 << 10), (2, 2 * CHUNK - (64 << 10))] {
            let content = content(chunks);
            let Script::Body { head, .. } = body(&content, 0, None) else { unreachable!("a body is scripted") };
            let bed = Bed::new(vec![Script::Body { head, chunks: vec![Some(content.clone())] }]);
            let (readable, stall) = begun(&bed, Digest::sha256(&content)).await;
            let mut stream = readable.read_all();
            bed.permit(1);
            assert!(next(&mut stream).await == content[..given]);
            assert!(is_silent(&mut stream).await);
            drop(stall);
            let (got, error) = rest(stream, content[..given].to_vec()).await;
            assert!(error.is_none() && got == content, "{error:?}");
        }
    });
}

/// They have gone out and are in no file when the rest passes through.
#[test]
fn what_could_not_be_written_is_compared_with_what_passes_through() {
    with_one_thread_for_the_disk(async {
        let content = content(40);
        let mut wrong = content.to_vec();
        wrong[10] ^= 1;
        for (first, is_right) in [(content.clone(), true), (wrong.into(), false)] {
            let fs = FaultFs { for_good: true, ..FaultFs::one(0) };
            let count = Arc::clone(&fs.count);
            let bed = Bed::on(Arc::new(fs), 1 << 30, vec![body(&first, 0, None), body(&content, 0, None)]);
            let (readable, stall) = begun(&bed, Digest::sha256(&content)).await;
            let mut stream = locate::taken(readable.locate_all());
            drop(readable);
            bed.permit(1);
            let beginning = next(&mut stream).await;
            assert!(beginning == first[..CHUNK]);
            // The disk fails from now on.
            count.store(0, Ordering::SeqCst);
            drop(stall);
            bed.permit(100);
            let (got, error) = rest(stream, beginning.to_vec()).await;
            assert_eq!(error.is_none(), is_right, "{error:?}");
            assert!(first.starts_with(&got));
            assert_eq!(got.len() == content.len(), is_right);
            assert_eq!(bed.origin.asked.lock().unwrap().len(), 2, "the rest passed through");
        }
    });
}

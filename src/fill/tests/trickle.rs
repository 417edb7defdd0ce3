//! Bodies that come a little at a time.

use super::super::batch::GRAIN;
use super::*;

/// Each time that bytes are handed on costs more than these bytes where they are few.
#[tokio::test(start_paused = true)]
async fn what_comes_in_crumbs_is_gathered_and_nobody_waits_for_it() {
    let crumb = CHUNK / 10;
    let content = content(20);
    let Script::Body { head, .. } = body(&content, 0, None) else { unreachable!("a body is scripted") };
    let chunks = content.chunks(crumb).map(|chunk| Some(Bytes::copy_from_slice(chunk))).collect();
    let bed = Bed::new(vec![Script::Body { head, chunks }]);
    let fill = bed.begin(Digest::sha256(&content));
    let mut stream = Readable::InFlight(Arc::clone(&fill)).read_all();
    // The first is there before any time passes, and one that nothing follows a moment later.
    for (sent, longest) in [(crumb, Duration::ZERO), (2 * crumb, Duration::from_millis(10))] {
        let begun = tokio::time::Instant::now();
        bed.permit(1);
        assert_eq!(stream.next().await.unwrap().unwrap(), content[sent - crumb..sent]);
        assert!(begun.elapsed() <= longest, "{:?}", begun.elapsed());
    }
    let reader = tokio::spawn(async move {
        let (mut pieces, mut got) = (0, content[..2 * crumb].to_vec());
        while let Some(piece) = stream.next().await {
            got.extend_from_slice(&piece.unwrap());
            pieces += 1;
        }
        assert!(got == content);
        pieces
    });
    for _ in 2..200 {
        bed.permit(1);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let pieces = reader.await.unwrap();
    assert!((15..=40).contains(&pieces), "198 crumbs, one in each ms, came in {pieces} pieces");
}

/// The kernel keeps what is written in pieces that fit the write: see [`GRAIN`].
#[tokio::test(start_paused = true)]
async fn writes_end_at_whole_grains_until_nothing_follows() {
    let content = content(20);
    let piece = 100_000;
    let Script::Body { head, .. } = body(&content, 0, None) else { unreachable!("a body is scripted") };
    let chunks = content.chunks(piece).map(|chunk| Some(Bytes::copy_from_slice(chunk))).collect();
    let bed = Bed::new(vec![Script::Body { head, chunks }]);
    let fill = bed.begin(Digest::sha256(&content));
    bed.permit(1);
    fill.opened().await.unwrap();
    let mut taken = piece as u64;
    for _ in 0..4 {
        bed.permit(1);
        taken += piece as u64;
        // Longer than whole grains wait, and not as long as all else does.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let written = fill.end_of_run(0);
        assert!(written.is_multiple_of(GRAIN) && written > taken - GRAIN, "{written} of {taken}");
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(fill.end_of_run(0), taken, "what nothing follows is written as well");
    bed.permit(100);
    assert!(read(&fill).await.0 == content);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_trickles_is_replaced_once_and_then_accepted() {
    let content = content(6);
    let bed = Bed::new(vec![body(&content, 0, None), body(&content, 3 * CHUNK, None)]);
    let fill = bed.begin(Digest::sha256(&content));
    let reader = tokio::spawn(async move { read(&fill).await });
    // A chunk in eight seconds is less than 64 KiB in ten.
    for _ in 0..20 {
        bed.permit(1);
        tokio::time::sleep(Duration::from_secs(8)).await;
    }
    assert!(reader.await.unwrap().0 == content);
    let asked = bed.origin.asked.lock().unwrap().clone();
    assert!(matches!(asked[..], [Method::Get, Method::GetRange { .. }]), "{asked:?}");
}

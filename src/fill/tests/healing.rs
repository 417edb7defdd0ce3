//! The disk fails in the middle of a body: the body goes on, and is still never complete with wrong bytes.

use super::*;

/// A content that is at rest, and the first piece of it, read.
async fn half_read(bed: &Bed, content: &Bytes, range: std::ops::Range<u64>) -> (ByteStream, Vec<u8>) {
    let digest = Digest::sha256(content);
    bed.permit(content.len().div_ceil(CHUNK));
    read(&bed.begin(digest)).await;
    bed.until_landed().await;
    let mut stream = Readable::AtRest(bed.shelved(&digest).await).read(range);
    let first = stream.next().await.unwrap().unwrap();
    (stream, first.to_vec())
}

/// Cuts the file of a content short.
fn cut(bed: &Bed, digest: &Digest, length: usize) {
    let hex = digest.hex();
    let path = bed.dir.path().join("cache/blobs/sha256").join(&hex[..2]).join(&hex);
    // Read-only files cannot be opened for writing but by root.
    let bytes = std::fs::read(&path).unwrap();
    let permissions = std::fs::metadata(&path).unwrap().permissions();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
    std::fs::set_permissions(&path, permissions).unwrap();
    assert!(bytes.len() > length);
}

#[tokio::test]
async fn a_file_that_is_shorter_than_it_was_is_fetched_again_for_the_same_body() {
    let content = content(40);
    let (digest, size) = (Digest::sha256(&content), content.len() as u64);
    for range in [0..size, 7..size - 7] {
        let bed = Bed::new(vec![body(&content, 0, None), body(&content, 0, None)]);
        let (stream, first) = half_read(&bed, &content, range.clone()).await;
        cut(&bed, &digest, first.len());
        bed.permit(40);
        let (got, error) = rest(stream, first).await;
        assert!(error.is_none(), "{error:?}");
        assert!(got == content[range.start as usize..range.end as usize]);
        bed.until_landed().await;
        assert_eq!(bed.store.get(&digest).await.unwrap().size, size, "it is at rest again");
        let read_errors = bed.store.stats().disk_errors.into_iter().find(|(name, _)| *name == "read blob");
        assert_eq!(read_errors, Some(("read blob", 1)));
    }
}

#[tokio::test]
async fn what_heals_a_body_is_verified_before_its_tail_goes_out() {
    let content = content(40);
    let mut wrong = content.to_vec();
    wrong[content.len() - 1] ^= 1;
    let bed = Bed::new(vec![body(&content, 0, None), body(&wrong.into(), 0, None)]);
    let (stream, first) = half_read(&bed, &content, 0..content.len() as u64).await;
    cut(&bed, &Digest::sha256(&content), first.len());
    bed.permit(40);
    let (got, error) = rest(stream, first).await;
    assert!(matches!(error, Some(FillError::WrongDigest { .. })), "{error:?}");
    assert!(got.len() as u64 <= content.len() as u64 - WITHHELD_TAIL);
    assert!(content.starts_with(&got));
}

/// All of it had arrived and was right when the disk gave back no more of it, not even what had gone out.
#[tokio::test]
async fn a_body_that_was_read_from_a_verified_fill_passes_through_to_its_end() {
    let content = content(40);
    let mut wrong = content.to_vec();
    wrong[content.len() - 1] ^= 1;
    for (second, is_right) in [(content.clone(), true), (wrong.into(), false)] {
        let bed = Bed::new(vec![body(&content, 0, None), body(&second, 0, None)]);
        let digest = Digest::sha256(&content);
        let fill = bed.begin(digest);
        bed.permit(40);
        let mut stream = Readable::InFlight(Arc::clone(&fill)).read_all();
        let first = stream.next().await.unwrap().unwrap();
        fill.verified().await.unwrap();
        bed.until_landed().await;
        cut(&bed, &digest, 10);
        bed.permit(40);
        let (got, error) = rest(stream, first.to_vec()).await;
        assert_eq!(error.is_none(), is_right, "{error:?}");
        assert!(content.starts_with(&got));
        assert_eq!(got.len() == content.len(), is_right);
    }
}

/// A content of unknown size turns out to be larger than the cache.
#[tokio::test]
async fn a_body_passes_through_from_where_there_is_no_room_any_more() {
    const ROOM: u64 = 1 << 20;
    let content = content(40);
    let without_length = |content: &Bytes| match body(content, 0, None) {
        Script::Body { chunks, .. } => Script::Body { head: Box::default(), chunks },
        other => other,
    };
    let wrong_at = |position: usize| {
        let mut wrong = content.to_vec();
        wrong[position] ^= 1;
        Bytes::from(wrong)
    };
    for (first, second, is_right) in [
        (content.clone(), content.clone(), true),
        (content.clone(), wrong_at(content.len() - 1), false),
        // The upstream's bytes are right the second time, and some of those from the first time have gone out.
        (wrong_at(10), content.clone(), false),
    ] {
        for is_located in [false, true] {
            let bed = Bed::with_room(ROOM, vec![without_length(&first), without_length(&second)]);
            let content = Readable::InFlight(bed.begin(Digest::sha256(&content)));
            let mut stream = if is_located { locate::taken(content.locate_all()) } else { content.read_all() };
            // Some of it goes out while there is room.
            bed.permit(4);
            let beginning = stream.next().await.unwrap().unwrap();
            bed.permit(100);
            let (got, error) = rest(stream, beginning.to_vec()).await;
            assert_eq!(error.is_none(), is_right, "{error:?}");
            assert!(first.starts_with(&got));
            assert_eq!(got.len() == first.len(), is_right);
            assert_eq!(bed.origin.asked.lock().unwrap().len(), 2);
            bed.until_landed().await;
            bed.until_reserved(0).await;
        }
    }
}

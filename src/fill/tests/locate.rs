//! Bytes that are named rather than read, for who can have the system send them.

use super::*;

/// What is named is taken from its file as soon as it is named, as by who sends it.
pub(super) fn taken(chunks: ChunkStream) -> ByteStream {
    let taken = chunks.map_ok(|chunk| match chunk {
        Chunk::Bytes(bytes) => bytes,
        Chunk::Extent(extent) => {
            let mut bytes = vec![0; usize::try_from(extent.len()).unwrap()];
            assert_eq!(rustix::io::pread(extent.file().descriptor().unwrap(), &mut bytes, extent.offset()), Ok(bytes.len()));
            bytes.into()
        }
    });
    taken.boxed()
}

/// All of it, taken from the file itself where that is what is said.
async fn gather(mut chunks: ChunkStream) -> (Vec<u8>, u64) {
    let (mut got, mut located) = (Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        match chunk.unwrap() {
            Chunk::Bytes(bytes) => got.extend_from_slice(&bytes),
            Chunk::Extent(extent) => {
                assert!((1..=EXTENT_MAX_BYTES as u64).contains(&extent.len()));
                let mut bytes = vec![0; usize::try_from(extent.len()).unwrap()];
                assert_eq!(rustix::io::pread(extent.file().descriptor().unwrap(), &mut bytes, extent.offset()), Ok(bytes.len()));
                assert_eq!(rest(extent.read_from(3), bytes[..3].to_vec()).await.0, bytes, "the same is read");
                got.extend_from_slice(&bytes);
                located += bytes.len() as u64;
            }
        }
    }
    (got, located)
}

#[tokio::test]
async fn any_range_is_where_it_is_said_to_be() {
    let content = content(60);
    let (digest, size) = (Digest::sha256(&content), content.len());
    let bed = Bed::new(vec![body(&content, 0, None)]);
    let fill = bed.begin(digest);
    let ranges = || [0..size, 0..1, size - 1..size, 5..size - 100_000, size - 70_000..size - 1, 100_000..2_200_000];
    // Whoever begins further on would have that part fetched first.
    let readers = [0..size, 5..size - 100_000, 3..100].map(|range| {
        let chunks = Readable::InFlight(Arc::clone(&fill)).locate(range.start as u64..range.end as u64);
        (tokio::spawn(gather(chunks)), content.slice(range))
    });
    bed.permit(60);
    for (reader, expected) in readers {
        assert!(reader.await.unwrap().0 == expected, "in flight");
    }
    bed.until_landed().await;
    let shelved = bed.shelved(&digest).await;
    for range in ranges() {
        let (got, located) = gather(Readable::AtRest(shelved.clone()).locate(range.start as u64..range.end as u64)).await;
        assert!(got == content[range.clone()], "{range:?} at rest");
        // What was just written is in memory. What is small is read.
        let last = range.len() % EXTENT_MAX_BYTES;
        assert_eq!(located as usize, range.len() - if last < 64 << 10 { last } else { 0 }, "{range:?}");
    }
}

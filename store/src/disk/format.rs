//! What lies in a segment, to the byte; `docs/format.md` draws it. Pure: bytes in, bytes out.
//!
//! Numbers are big-endian. Every head is hashed with a salt that no user knows and with its own place, so that a value that
//! looks like a record is never taken for one. A record's head is there twice, before and after its value, so that one
//! damaged place never hides which object was hit.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The format that this program writes and reads.
pub const FORMAT: u32 = 1;

/// The longest name of a tenant.
pub const MAX_TENANT: usize = 255;
/// The longest key.
pub const MAX_KEY: usize = 4096;
/// The longest metadata.
pub const MAX_META: usize = 4096;
/// The longest value: its length is written in four bytes, and one segment holds it.
pub const MAX_VALUE: usize = 1 << 30;

/// Values are hashed in pieces of this size, so that a part can be read and verified without the rest.
pub const CHUNK: usize = 256 * 1024;

/// The head of a segment: the same 64 bytes twice.
pub(super) const SEGMENT_HEAD: u64 = 128;
/// The fixed part of the head of a record.
pub(super) const HEAD: usize = 56;
/// The end of a sealed segment.
pub(super) const TRAILER: usize = 40;
/// The mark of a folder: the same 32 bytes twice.
pub(super) const MARK: usize = 64;

const SEGMENT_MAGIC: &[u8; 8] = b"WLSEGMNT";
const TRAILER_MAGIC: &[u8; 8] = b"WLFOOTER";
const MARK_MAGIC: &[u8; 8] = b"WLSTORE\0";

/// Which of its three places a head is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// Before the value.
    Head,
    /// After the value.
    Repeat,
    /// In the footer of a sealed segment.
    Footer,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The object is there.
    Put,
    /// It is not.
    Delete,
}

/// All of a record but its names and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Whether all batches before this one were on disk when it was written.
    pub(super) settled: bool,
    pub(super) tenant: u8,
    pub(super) key: u16,
    pub(super) meta: u16,
    pub(super) value: u32,
    /// The order of changes; a copy made by compaction keeps it.
    pub(super) seq: u64,
    /// Where its batch begins in the segment.
    pub(super) batch: u64,
    /// The hash of the hashes of the value's chunks.
    pub(super) root: u64,
    /// Where it begins in the segment.
    pub(super) at: u64,
}

/// How many bytes its parts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) names: usize,
    pub(super) value: usize,
}

const fn padded(len: u64) -> u64 {
    len.next_multiple_of(8)
}

// === impl Size ===

impl Size {
    /// Hashes of chunks that lie beside the value; one chunk is told by the root alone.
    pub(super) const fn sums(self) -> usize {
        if self.value > CHUNK { 8 * self.value.div_ceil(CHUNK) } else { 0 }
    }

    /// From the beginning of the record to its value.
    pub(super) const fn to_value(self) -> u64 {
        padded((HEAD + self.names + self.sums()) as u64)
    }

    /// From the beginning of the record to the repeated head.
    pub(super) const fn to_repeat(self) -> u64 {
        self.to_value() + padded(self.value as u64)
    }

    /// The whole record.
    pub(super) const fn record(self) -> u64 {
        self.to_repeat() + padded((HEAD + self.names) as u64)
    }

    /// What the footer says of it.
    pub(super) const fn in_footer(self) -> u64 {
        (HEAD + self.names) as u64
    }

    /// What an object takes of a sealed segment.
    pub(super) const fn on_disk(self) -> u64 {
        self.record() + self.in_footer()
    }
}

// === impl Head ===

impl Head {
    pub(super) const fn size(&self) -> Size {
        let names = self.tenant as usize + self.key as usize + self.meta as usize;
        Size { names, value: self.value as usize }
    }

    /// The first byte after it.
    pub(super) const fn end(&self) -> u64 {
        self.at + self.size().record()
    }

    /// Writes the head and its names.
    pub(super) fn encode(&self, copy: Copy, salt: u64, names: &[u8], to: &mut Vec<u8>) {
        debug_assert_eq!(names.len(), self.size().names);
        let from = to.len();
        to.extend_from_slice(copy.magic());
        to.push(match self.kind {
            Kind::Put => 1,
            Kind::Delete => 2,
        });
        to.push(u8::from(self.settled));
        to.push(self.tenant);
        to.push(0);
        to.extend_from_slice(&self.key.to_be_bytes());
        to.extend_from_slice(&self.meta.to_be_bytes());
        to.extend_from_slice(&self.value.to_be_bytes());
        for number in [self.seq, self.batch, self.root, self.at] {
            to.extend_from_slice(&number.to_be_bytes());
        }
        let hash = head_hash(&to[from..from + HEAD - 8], names, salt);
        to.extend_from_slice(&hash.to_be_bytes());
        to.extend_from_slice(names);
    }

    /// Reads a head and says which bytes after it are its names; `None` if it is none.
    pub(super) fn decode(copy: Copy, salt: u64, bytes: &[u8]) -> Option<(Self, &[u8])> {
        if bytes.len() < HEAD || &bytes[..4] != copy.magic() {
            return None;
        }
        let kind = match bytes[4] {
            1 => Kind::Put,
            2 => Kind::Delete,
            _ => return None,
        };
        let head = Self {
            kind,
            settled: bytes[5] == 1,
            tenant: bytes[6],
            key: u16::from_be_bytes([bytes[8], bytes[9]]),
            meta: u16::from_be_bytes([bytes[10], bytes[11]]),
            value: u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
            seq: number(bytes, 16),
            batch: number(bytes, 24),
            root: number(bytes, 32),
            at: number(bytes, 40),
        };
        let names = bytes.get(HEAD..HEAD + head.size().names)?;
        (number(bytes, 48) == head_hash(&bytes[..48], names, salt)).then_some((head, names))
    }
}

impl Copy {
    pub(super) const fn magic(self) -> &'static [u8; 4] {
        match self {
            Self::Head => b"WLhd",
            Self::Repeat => b"WLrp",
            Self::Footer => b"WLft",
        }
    }
}

/// The most bytes that a head with its names can have.
pub(super) const MAX_HEAD: usize = HEAD + MAX_TENANT + MAX_KEY + MAX_META;

fn head_hash(fixed: &[u8], names: &[u8], salt: u64) -> u64 {
    xxh3_64_with_seed(names, xxh3_64_with_seed(fixed, salt))
}

// === Values ===

/// The hashes of a value's chunks, as they are written.
pub(super) fn sums(value: &[u8]) -> Vec<u8> {
    value.chunks(CHUNK).flat_map(|chunk| xxh3_64(chunk).to_be_bytes()).collect()
}

/// What stands in the head for all of them.
pub(super) fn root(sums: &[u8]) -> u64 {
    xxh3_64(sums)
}

/// The hash of one chunk, as it is written.
pub(super) fn sum(chunk: &[u8]) -> [u8; 8] {
    xxh3_64(chunk).to_be_bytes()
}

// === Segments ===

/// What heads in one segment of one store are hashed with.
pub(super) fn salt(store: u64, segment: u32) -> u64 {
    xxh3_64_with_seed(&segment.to_be_bytes(), store)
}

pub(super) fn segment_head(store: u64, segment: u32) -> Vec<u8> {
    let mut one = SEGMENT_MAGIC.to_vec();
    one.extend_from_slice(&FORMAT.to_be_bytes());
    one.extend_from_slice(&segment.to_be_bytes());
    one.extend_from_slice(&store.to_be_bytes());
    one.resize(56, 0);
    let hash = xxh3_64(&one);
    one.extend_from_slice(&hash.to_be_bytes());
    one.repeat(2)
}

/// Reads the head of a segment: its format, its number and its store, from whichever copy is whole.
pub(super) fn read_segment_head(bytes: &[u8]) -> Option<(u32, u32, u64)> {
    bytes.chunks_exact(64).take(2).find_map(|copy| {
        let whole = &copy[..8] == SEGMENT_MAGIC && number(copy, 56) == xxh3_64(&copy[..56]);
        let short = |at: usize| u32::from_be_bytes([copy[at], copy[at + 1], copy[at + 2], copy[at + 3]]);
        whole.then(|| (short(8), short(12), number(copy, 16)))
    })
}

/// The end of a sealed segment: where its footer begins, how many records that has, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) footer: u64,
    pub(super) records: u64,
    pub(super) hash: u64,
}

impl Trailer {
    pub(super) fn of(footer: u64, records: u64, bytes: &[u8]) -> Self {
        Self { footer, records, hash: xxh3_64(bytes) }
    }

    pub(super) fn fits(&self, footer: &[u8]) -> bool {
        self.hash == xxh3_64(footer)
    }

    pub(super) fn encode(&self, salt: u64, to: &mut Vec<u8>) {
        let from = to.len();
        to.extend_from_slice(TRAILER_MAGIC);
        for number in [self.footer, self.records, self.hash] {
            to.extend_from_slice(&number.to_be_bytes());
        }
        let hash = xxh3_64_with_seed(&to[from..], salt);
        to.extend_from_slice(&hash.to_be_bytes());
    }

    pub(super) fn decode(salt: u64, bytes: &[u8]) -> Option<Self> {
        let whole = bytes.len() == TRAILER
            && &bytes[..8] == TRAILER_MAGIC
            && number(bytes, 32) == xxh3_64_with_seed(&bytes[..32], salt);
        whole.then(|| Self { footer: number(bytes, 8), records: number(bytes, 16), hash: number(bytes, 24) })
    }
}

// === The mark ===

/// What is in the file that says whose folder it is.
pub(super) fn mark(store: u64) -> Vec<u8> {
    let mut one = MARK_MAGIC.to_vec();
    one.extend_from_slice(&FORMAT.to_be_bytes());
    one.extend_from_slice(&[0; 4]);
    one.extend_from_slice(&store.to_be_bytes());
    let hash = xxh3_64(&one);
    one.extend_from_slice(&hash.to_be_bytes());
    one.repeat(2)
}

/// Reads the mark: the format and the store, from whichever copy is whole.
pub(super) fn read_mark(bytes: &[u8]) -> Option<(u32, u64)> {
    bytes.chunks_exact(32).take(2).find_map(|copy| {
        let whole = &copy[..8] == MARK_MAGIC && number(copy, 24) == xxh3_64(&copy[..24]);
        whole.then(|| (u32::from_be_bytes([copy[8], copy[9], copy[10], copy[11]]), number(copy, 16)))
    })
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let (seq, batch, root, at) = (7, 128, 99, 256);
        Head {
            kind: Kind::Put,
            settled: true,
            tenant: 2,
            key: 3,
            meta: 1,
            value: 300_000,
            seq,
            batch,
            root,
            at,
        }
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_only_where_it_belongs() {
        let mut bytes = Vec::new();
        head().encode(Copy::Head, 5, b"ttkkkm", &mut bytes);
        assert_eq!(bytes.len(), HEAD + 6);
        assert_eq!(Head::decode(Copy::Head, 5, &bytes), Some((head(), &b"ttkkkm"[..])));
        assert_eq!(Head::decode(Copy::Head, 6, &bytes), None, "of another segment");
        for copy in [Copy::Repeat, Copy::Footer] {
            assert_eq!(Head::decode(copy, 5, &bytes), None, "in another place");
        }
        let mut relabelled = bytes.clone();
        relabelled[..4].copy_from_slice(Copy::Footer.magic());
        assert_eq!(Head::decode(Copy::Footer, 5, &relabelled), None, "the hash covers which copy it is");
    }

    #[test]
    fn whatever_is_cut_or_flipped_is_refused() {
        let mut whole = Vec::new();
        head().encode(Copy::Head, 5, b"ttkkkm", &mut whole);
        for cut in 0..whole.len() {
            assert_eq!(Head::decode(Copy::Head, 5, &whole[..cut]), None, "cut at {cut}");
        }
        for (at, bit) in (0..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            assert_eq!(Head::decode(Copy::Head, 5, &flipped), None, "bit {bit} of byte {at}");
        }
    }

    #[test]
    fn one_damaged_copy_of_a_mark_or_a_segments_head_is_no_loss_and_two_are_noticed() {
        for at in 0..SEGMENT_HEAD as usize {
            let mut bytes = segment_head(11, 3);
            bytes[at] ^= 4;
            assert_eq!(read_segment_head(&bytes), Some((FORMAT, 3, 11)));
            bytes[(at + 64) % 128] ^= 4;
            assert_eq!(read_segment_head(&bytes), None);
        }
        for at in 0..MARK {
            let mut bytes = mark(11);
            bytes[at] ^= 4;
            assert_eq!(read_mark(&bytes), Some((FORMAT, 11)));
            bytes[(at + 32) % 64] ^= 4;
            assert_eq!(read_mark(&bytes), None);
        }
        assert_eq!((mark(1).len(), segment_head(1, 1).len() as u64), (MARK, SEGMENT_HEAD));
    }

    #[test]
    fn a_trailer_is_refused_when_anything_is_different() {
        let trailer = Trailer::of(77, 3, b"footer");
        let mut whole = Vec::new();
        trailer.encode(5, &mut whole);
        assert_eq!(whole.len(), TRAILER);
        assert_eq!(Trailer::decode(5, &whole), Some(trailer));
        assert!(trailer.fits(b"footer") && !trailer.fits(b"fooler"));
        for at in 0..TRAILER {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert_eq!(Trailer::decode(5, &flipped), None, "byte {at}");
        }
        assert_eq!(Trailer::decode(6, &whole), None, "of another segment");
    }

    #[test]
    fn parts_of_a_record_follow_each_other_on_eights() {
        for (names, value) in [(1, 0), (9, 1), (100, CHUNK), (100, CHUNK + 1), (8447, 10 * CHUNK)] {
            let size = Size { names, value };
            assert_eq!(size.sums(), if value > CHUNK { 8 * value.div_ceil(CHUNK) } else { 0 });
            assert!(
                size.to_value() >= (HEAD + names + size.sums()) as u64 && size.to_value().is_multiple_of(8)
            );
            assert!(size.to_repeat() >= size.to_value() + value as u64 && size.to_repeat().is_multiple_of(8));
            assert!(
                size.record().is_multiple_of(8)
                    && size.record() <= size.to_repeat() + (HEAD + names + 7) as u64
            );
        }
    }
}

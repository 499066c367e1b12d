//! What a segment holds, read back: from its footer if it was sealed, else record by record.
//!
//! What was being written when the machine stopped is torn, and is discarded: nobody was told that it is there. What was
//! there and is not any more is *damaged*, and is told. They are told apart so: a torn write has no second head, or leaves
//! sectors that were never written, which are zeros in a file that is never written twice; and what lies before a batch that
//! says that everything before it was on disk was not torn.

use std::io;

use super::format::{self, Copy, HEAD, Head, Kind, MAX_HEAD, SEGMENT_HEAD, TRAILER, Trailer};
use super::segment::Segment;

/// What a disk writes at once.
const SECTOR: u64 = 512;

/// Bytes that are read at once while records are walked over.
const WINDOW: usize = 1 << 20;

/// What was read of one segment.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Whether it had a whole footer, and nothing else was read.
    pub(super) sealed: bool,
    /// The first byte after the last record.
    pub(super) end: u64,
    /// Bytes of writes that were never acknowledged.
    pub(super) torn: u64,
    pub(super) damage: Vec<Hurt>,
}

/// What was there and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hurt {
    pub(super) at: u64,
    pub(super) len: u64,
    /// Tenant and key; unknown if both copies of the head are gone.
    pub(super) names: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) why: &'static str,
}

/// Sees each record, in the order of the file.
pub(super) type Visit<'a> = &'a mut dyn FnMut(Head, &[u8]);

/// Reads a segment.
///
/// # Errors
/// Those of the file system.
pub(super) fn read(segment: &Segment, visit: Visit<'_>) -> io::Result<Reading> {
    let len = segment.handle().len()?;
    let trailer = trailer(segment, len)?;
    if let Some(trailer) = trailer
        && footer(segment, &trailer, len, visit)?
    {
        return Ok(Reading { sealed: true, end: trailer.footer, ..Reading::default() });
    }
    let (from, window) = (0, Vec::new());
    let mut walk =
        Walk { segment, len, window, from, found: Vec::new(), lost: Vec::new(), sealed_once: false };
    if let Some(trailer) = trailer {
        // The footer is damaged, but where the records end is known, and that all of them were on disk.
        (walk.len, walk.sealed_once) = (trailer.footer, true);
    }
    let end = walk.run()?;
    walk.judge(end, visit)
}

/// The end of a sealed segment, if it is whole.
fn trailer(segment: &Segment, len: u64) -> io::Result<Option<Trailer>> {
    let Some(at) = len.checked_sub(TRAILER as u64) else { return Ok(None) };
    let mut bytes = [0; TRAILER];
    segment.read(&mut bytes, at)?;
    let trailer = Trailer::decode(segment.salt, &bytes);
    Ok(trailer.filter(|trailer| (SEGMENT_HEAD..=at).contains(&trailer.footer)))
}

/// Reads the footer; `false` if it is damaged, and then nothing was shown.
fn footer(segment: &Segment, trailer: &Trailer, len: u64, visit: Visit<'_>) -> io::Result<bool> {
    let mut bytes = vec![0; (len - TRAILER as u64 - trailer.footer) as usize];
    segment.read(&mut bytes, trailer.footer)?;
    if !trailer.fits(&bytes) {
        return Ok(false);
    }
    let mut rest = &bytes[..];
    while let Some((head, names)) = Head::decode(Copy::Footer, segment.salt, rest) {
        rest = &rest[HEAD + names.len()..];
        visit(head, names);
    }
    Ok(true)
}

struct Walk<'a> {
    segment: &'a Segment,
    len: u64,
    /// Bytes of the file from `from` on.
    window: Vec<u8>,
    from: u64,
    found: Vec<Found>,
    /// Where nothing could be read: places and lengths.
    lost: Vec<(u64, u64)>,
    /// Whether a footer was begun: everything before it was on disk.
    sealed_once: bool,
}

struct Found {
    head: Head,
    names: Vec<u8>,
    /// `None`: the value is what was written; else whether it can be that it was never written whole.
    wrong: Option<bool>,
}

impl Walk<'_> {
    /// From record to record; where there is none, to the next that can be found.
    fn run(&mut self) -> io::Result<u64> {
        let mut at = SEGMENT_HEAD;
        while at < self.len {
            if let Some((head, names)) = self.head(Copy::Head, at)? {
                if head.at != at || head.end() > self.len {
                    break;
                }
                at = self.found(head, names)?;
                continue;
            }
            if self.bytes(at, 4)? == Copy::Footer.magic() && self.head(Copy::Footer, at)?.is_some() {
                self.sealed_once = true;
                break;
            }
            let Some((next, head, names)) = self.search(at)? else { break };
            if next > at {
                self.lost.push((at, next - at));
            }
            at = self.found(head, names)?;
        }
        Ok(at)
    }

    fn found(&mut self, head: Head, names: Vec<u8>) -> io::Result<u64> {
        let wrong = self.value_is_wrong(&head)?;
        self.found.push(Found { head, names, wrong });
        Ok(head.end())
    }

    /// The next record from `at` on, by its head or by its repeated head: where it begins, and what it is.
    fn search(&mut self, at: u64) -> io::Result<Option<(u64, Head, Vec<u8>)>> {
        let mut place = at;
        while place + HEAD as u64 <= self.len {
            let magic = self.bytes(place, 4)?;
            let copy = match magic {
                magic if magic == Copy::Head.magic() => Copy::Head,
                magic if magic == Copy::Repeat.magic() => Copy::Repeat,
                _ => {
                    place += 8;
                    continue;
                }
            };
            if let Some((head, names)) = self.head(copy, place)? {
                let belongs = match copy {
                    Copy::Head => head.at == place,
                    _ => head.at >= at && head.at + head.size().to_repeat() == place,
                };
                if belongs && head.end() <= self.len {
                    return Ok(Some((head.at, head, names)));
                }
            }
            place += 8;
        }
        Ok(None)
    }

    fn head(&mut self, copy: Copy, at: u64) -> io::Result<Option<(Head, Vec<u8>)>> {
        let salt = self.segment.salt;
        let bytes = self.bytes(at, MAX_HEAD)?;
        Ok(Head::decode(copy, salt, bytes).map(|(head, names)| (head, names.to_vec())))
    }

    /// So many bytes from `at` on, or fewer at the end of the file.
    fn bytes(&mut self, at: u64, many: usize) -> io::Result<&[u8]> {
        let many = many.min((self.len - at) as usize);
        let covered = at >= self.from && at + many as u64 <= self.from + self.window.len() as u64;
        if !covered {
            self.window.resize(WINDOW.max(many).min((self.len - at) as usize), 0);
            let have = self.segment.read_some(&mut self.window, at)?;
            self.window.truncate(have);
            self.from = at;
        }
        let from = (at - self.from) as usize;
        Ok(&self.window[from..(from + many).min(self.window.len())])
    }

    fn value_is_wrong(&mut self, head: &Head) -> io::Result<Option<bool>> {
        if head.kind == Kind::Delete {
            return Ok(None);
        }
        let at = head.at + head.size().to_value();
        let value = self.bytes(at, head.value as usize)?;
        if format::root(&format::sums(value)) == head.root {
            return Ok(None);
        }
        // A write that stopped in the middle has left no second head; one whose sectors came in any order has lost the first
        // head, or a whole sector. One damaged place can be none of these, and hurt the value as well.
        let repeat = head.at + head.size().to_repeat();
        let halved = self.head(Copy::Head, head.at)?.is_none() || self.head(Copy::Repeat, repeat)?.is_none();
        Ok(Some(halved || self.has_an_empty_sector(at, head.end())?))
    }

    /// Whether some sector of the file was never written, as far as it lies in a place that cannot be read. Its first one may
    /// be the last of an older batch.
    fn was_never_written(&mut self, from: u64, len: u64) -> io::Result<bool> {
        let bytes = self.bytes(from, len as usize)?;
        let (first, rest) =
            bytes.split_at(((from.next_multiple_of(SECTOR) - from) as usize).min(bytes.len()));
        let empty = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| *byte == 0);
        Ok(empty(first) || rest.chunks(SECTOR as usize).any(empty))
    }

    /// Whether a whole sector of the file between two places was never written.
    fn has_an_empty_sector(&mut self, from: u64, to: u64) -> io::Result<bool> {
        let from = from / SECTOR * SECTOR;
        let bytes = self.bytes(from, (to.next_multiple_of(SECTOR) - from) as usize)?;
        Ok(bytes.chunks(SECTOR as usize).any(|sector| sector.iter().all(|byte| *byte == 0)))
    }

    /// Tells what is torn from what is damaged, and shows what is there.
    fn judge(mut self, end: u64, visit: Visit<'_>) -> io::Result<Reading> {
        // Everything before this place was on disk once.
        let settled = if self.sealed_once {
            end
        } else {
            let settled = self.found.iter().filter(|found| found.head.settled);
            settled.map(|found| found.head.batch).max().unwrap_or(0)
        };
        let mut reading = Reading { end, ..Reading::default() };
        for (at, len) in std::mem::take(&mut self.lost) {
            let torn = at + len > settled && self.was_never_written(at, len)?;
            if torn {
                reading.torn += len;
            } else {
                let why = "neither the head of what was here nor its copy can be read; older objects of its key may show";
                reading.damage.push(Hurt { at, len, names: None, why });
            }
        }
        for Found { head, names, wrong } in std::mem::take(&mut self.found) {
            let len = head.end() - head.at;
            match wrong {
                Some(torn) if torn && head.end() > settled => reading.torn += len,
                wrong => {
                    if wrong.is_some() {
                        let (tenant, key) = super::index::split(&head, &names);
                        let names = Some((tenant.to_vec(), key.to_vec()));
                        let why = "the value is not what was written";
                        reading.damage.push(Hurt { at: head.at, len, names, why });
                    }
                    visit(head, &names);
                }
            }
        }
        if !self.sealed_once {
            reading.torn += tail(self.segment, end, self.len)?;
        }
        Ok(reading)
    }
}

/// Bytes from `end` on that are not room that was set aside.
fn tail(segment: &Segment, end: u64, len: u64) -> io::Result<u64> {
    let mut bytes = vec![0; WINDOW.min((len.saturating_sub(end)) as usize)];
    let (mut at, mut last) = (end, end);
    while at < len && !bytes.is_empty() {
        let have = segment.read_some(&mut bytes, at)?;
        if have == 0 {
            break;
        }
        if let Some(written) = bytes[..have].iter().rposition(|byte| *byte != 0) {
            last = at + written as u64 + 1;
        }
        at += have as u64;
    }
    Ok(last - end)
}

//! What comes in: structures that may grow, arrays and texts, each checked as far as a pointer can be.
//!
//! All that is lent here is lent for one call; nothing is kept.

use std::ffi::{CStr, c_char};
use std::time::Duration;

use blocks::{BlockSize, EngineHash, Tier};
use events::publish::{self, Form};

use crate::trouble::Trouble;

/// `warmline_publisher_settings`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Settings {
    /// Tells which fields there are.
    pub struct_size: usize,
    /// Where subscribers connect.
    pub endpoint: *const c_char,
    /// Where replays and snapshots are asked for.
    pub replay_endpoint: *const c_char,
    /// The topic of every message, or NULL.
    pub topic: *const c_char,
    /// Tokens in a block.
    pub block_size: u32,
    /// Batches in the ring.
    pub buffer_steps: u32,
    /// Milliseconds between two signs of life.
    pub heartbeat_ms: u32,
    /// The data-parallel rank, or -1.
    pub rank: i32,
    /// Whether blocks go out as hashes: 0 or 1.
    pub compact: u32,
    /// 0.
    pub reserved: u32,
}

/// `warmline_run`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Run {
    /// Tells which fields there are.
    pub struct_size: usize,
    /// The engine's names, in order.
    pub blocks: *const u64,
    /// How many.
    pub block_count: usize,
    /// The name of the block before the first, or NULL.
    pub parent: *const u64,
    /// The LoRA adapter, or NULL.
    pub lora: *const c_char,
    /// The cache salt, or NULL.
    pub cache_salt: *const c_char,
    /// Where the blocks lie.
    pub tier: i32,
    /// 0.
    pub reserved: u32,
}

/// A run that has been looked at.
pub(crate) struct Lent<'a> {
    pub(crate) blocks: &'a [EngineHash],
    pub(crate) parent: Option<EngineHash>,
    pub(crate) lora: Option<&'a str>,
    pub(crate) salt: Option<&'a str>,
    pub(crate) tier: Tier,
}

/// Blocks in one call: a prompt of a million tokens at block size 1. More is a length that went wrong.
const MAX_BLOCKS: usize = 1 << 20;
/// Batches in the ring, at the most: beyond it a snapshot is smaller.
const MAX_STEPS: u32 = 1 << 20;
/// The longest pause between two signs of life, in milliseconds: an hour.
const MAX_HEARTBEAT: u32 = 3_600_000;
/// No structure of this interface will ever be longer; a size beyond it was never set.
const MAX_STRUCT: usize = 4_096;

// === impl Settings ===

impl Settings {
    /// What the publisher is started with, or what is wrong, in words.
    ///
    /// # Safety
    /// As the header says: what is not NULL is what it claims to be.
    pub(crate) unsafe fn read(given: *const Self) -> Result<publish::Settings, String> {
        // SAFETY: the caller's promise is passed on.
        let settings = unsafe { structure(given) }.map_err(in_words)?;
        let named = |name: &str, pointer: *const c_char| {
            // SAFETY: the caller's promise holds for every text of the structure.
            unsafe { text(pointer) }.map_err(|trouble| format!("{name}: {}", in_words(trouble)))
        };
        let needed = |name: &str, pointer| {
            named(name, pointer)?.map(str::to_owned).ok_or_else(|| format!("{name} must be set"))
        };
        let within = |name: &str, value: u32, least: u32, most: u32| {
            let fits = (least..=most).contains(&value);
            if fits { Ok(value) } else { Err(format!("{name} is {value}, and must be {least} to {most}")) }
        };
        let heartbeat = within("heartbeat_ms", settings.heartbeat_ms, 1, MAX_HEARTBEAT)?;
        within("reserved", settings.reserved, 0, 0)?;
        Ok(publish::Settings {
            endpoint: needed("endpoint", settings.endpoint)?,
            replay: needed("replay_endpoint", settings.replay_endpoint)?,
            topic: named("topic", settings.topic)?.unwrap_or_default().to_owned(),
            block_size: within("block_size", settings.block_size, 1, BlockSize::MAX)?,
            buffer_steps: within("buffer_steps", settings.buffer_steps, 0, MAX_STEPS)? as usize,
            heartbeat: Duration::from_millis(heartbeat.into()),
            rank: match settings.rank {
                -1 => None,
                rank => {
                    let wrong = |_| format!("rank is {rank}, and must be -1 for none, or at least 0");
                    Some(u32::try_from(rank).map_err(wrong)?)
                }
            },
            form: match within("compact", settings.compact, 0, 1)? {
                0 => Form::AsGiven,
                _ => Form::Compact,
            },
        })
    }
}

// === impl Run ===

impl Run {
    /// The run, looked at.
    ///
    /// # Safety
    /// As the header says: what is not NULL is what it claims to be, and stays it while the run is used.
    pub(crate) unsafe fn read<'a>(given: *const Self) -> Result<Lent<'a>, Trouble> {
        // SAFETY: the caller's promise, here and below, for the structure and all that it points to.
        let run = unsafe { structure(given) }?;
        if run.reserved != 0 {
            return Err(Trouble::Struct);
        }
        Ok(Lent {
            // SAFETY: as above.
            blocks: unsafe { names(run.blocks, run.block_count) }?,
            parent: if run.parent.is_null() {
                None
            } else {
                // SAFETY: as above; one name.
                unsafe { names(run.parent, 1) }?.first().copied()
            },
            // SAFETY: as above.
            lora: unsafe { text(run.lora) }?,
            // SAFETY: as above.
            salt: unsafe { text(run.cache_salt) }?,
            tier: tier(run.tier)?,
        })
    }
}

// === Small steps ===

/// The tier with this number.
pub(crate) fn tier(number: i32) -> Result<Tier, Trouble> {
    usize::try_from(number).ok().and_then(|number| Tier::ALL.get(number)).copied().ok_or(Trouble::Tier)
}

/// Block names, no more than any prompt has.
///
/// # Safety
/// As [`slice()`].
pub(crate) unsafe fn names<'a>(first: *const u64, count: usize) -> Result<&'a [EngineHash], Trouble> {
    if count > MAX_BLOCKS {
        return Err(Trouble::Count);
    }
    // SAFETY: the caller's promise is passed on; an `EngineHash` is a `u64` and nothing else.
    unsafe { slice(first.cast(), count) }
}

/// An array that is lent. Where there are no elements the pointer does not matter.
///
/// # Safety
/// From `first` on, if it is not NULL, lie `count` elements, which nobody changes while the slice is used. Any bits
/// make a `T`.
pub(crate) unsafe fn slice<'a, T: Copy>(first: *const T, count: usize) -> Result<&'a [T], Trouble> {
    if count == 0 {
        return Ok(&[]);
    }
    if first.is_null() || !first.is_aligned() {
        return Err(Trouble::Pointer);
    }
    if count > isize::MAX as usize / size_of::<T>() {
        return Err(Trouble::Count);
    }
    // SAFETY: the pointer is aligned, the length is possible, and the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(first, count) })
}

/// A text that is lent; NULL and the empty text are none.
///
/// # Safety
/// At `first`, if it is not NULL, lies a text that ends in a zero, which nobody changes while it is used.
unsafe fn text<'a>(first: *const c_char) -> Result<Option<&'a str>, Trouble> {
    if first.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not NULL, and the rest is the caller's promise.
    let text = unsafe { CStr::from_ptr(first) }.to_str().map_err(|_| Trouble::Text)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A structure whose first field says how long it is. A longer one was made for a later library, which is fine as long
/// as it says nothing that this one does not understand.
///
/// # Safety
/// At `given`, if it is not NULL, lie as many bytes as the first field says. Any bits make a `T`, which begins with a
/// `usize`.
unsafe fn structure<T: Copy>(given: *const T) -> Result<T, Trouble> {
    if given.is_null() || !given.is_aligned() {
        return Err(Trouble::Pointer);
    }
    // SAFETY: it is not NULL, it is aligned, and the first field is there by the caller's promise.
    let size = unsafe { given.cast::<usize>().read() };
    if !(size_of::<T>()..=MAX_STRUCT).contains(&size) {
        return Err(Trouble::Struct);
    }
    // SAFETY: the caller's promise: `size` bytes are there, of which these are the last.
    let unknown = unsafe { slice(given.cast::<u8>().add(size_of::<T>()), size - size_of::<T>()) }?;
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(Trouble::Struct);
    }
    // SAFETY: as above, and any bits make a `T`.
    Ok(unsafe { given.read() })
}

fn in_words(trouble: Trouble) -> String {
    trouble.words().to_string_lossy().into_owned()
}

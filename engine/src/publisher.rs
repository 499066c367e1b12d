//! The functions of the interface: each looks at what it was given, and hands it to the publisher of `events`.
//!
//! Who may call what when, and what each means, is in the header; here is only how.

use std::ffi::{CStr, CString, c_char, c_int};

use events::publish::{Publisher, Run, Says};

use crate::given::{self, Settings};
use crate::trouble::{Trouble, answer, caught, words};

/// `warmline_publisher`.
pub struct Handle {
    publisher: Publisher,
    endpoint: CString,
    replay: CString,
    block_size: usize,
    /// Where the publisher's threads are. A fork has the handle, and no threads.
    process: u32,
}

// Any thread may say something: that is a promise of the header.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Handle>();
};

// === impl Handle ===

impl Handle {
    fn start(settings: events::publish::Settings) -> Result<Self, String> {
        let block_size = settings.block_size as usize;
        let publisher = Publisher::start(settings).map_err(|error| error.to_string())?;
        let text = |text: &str| CString::new(text).map_err(|error| error.to_string());
        let (endpoint, replay) = (text(publisher.endpoint())?, text(publisher.replay_endpoint())?);
        Ok(Self { publisher, endpoint, replay, block_size, process: std::process::id() })
    }

    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }
}

/// The handle, if it can be one.
///
/// # Safety
/// What is not NULL came from [`warmline_publisher_start`] and has not been stopped.
unsafe fn handle<'a>(publisher: *const Handle) -> Result<&'a Handle, Trouble> {
    if !publisher.is_aligned() {
        return Err(Trouble::Pointer);
    }
    // SAFETY: the caller's promise.
    unsafe { publisher.as_ref() }.ok_or(Trouble::Pointer)
}

/// The same, in the process whose publisher it is.
///
/// # Safety
/// As [`handle`].
unsafe fn speaker<'a>(publisher: *const Handle) -> Result<&'a Handle, Trouble> {
    // SAFETY: the caller's promise is passed on.
    let handle = unsafe { handle(publisher) }?;
    if handle.is_forked() { Err(Trouble::Forked) } else { Ok(handle) }
}

// === Begin and end ===

/// The version of the interface.
#[unsafe(no_mangle)]
pub extern "C" fn warmline_engine_abi() -> u32 {
    crate::ABI
}

/// A code in words.
#[unsafe(no_mangle)]
pub extern "C" fn warmline_engine_error(code: c_int) -> *const c_char {
    words(code).as_ptr()
}

/// Begins a life; NULL and words if it cannot.
///
/// # Safety
/// As the header says: what is not NULL is what it claims to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_publisher_start(
    settings: *const Settings,
    error: *mut c_char,
    error_len: usize,
) -> *mut Handle {
    // SAFETY: the caller's promise is passed on.
    let started = caught(|| unsafe { Settings::read(settings) }.and_then(Handle::start));
    let defect = || Trouble::Defect.words().to_string_lossy().into_owned();
    match started.unwrap_or_else(|| Err(defect())) {
        Ok(handle) => Box::into_raw(Box::new(handle)),
        Err(reason) => {
            // SAFETY: the caller's promise is passed on.
            unsafe { tell(&reason, error, error_len) };
            std::ptr::null_mut()
        }
    }
}

/// Ends a life, after what was said before has gone out.
///
/// # Safety
/// As the header says: it came from [`warmline_publisher_start`], and this is the last call with it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_publisher_stop(publisher: *mut Handle) {
    // SAFETY: the caller's promise. Who is forked has no threads to end, and waiting for them would never end.
    if unsafe { speaker(publisher) }.is_ok() {
        // SAFETY: it was a box, and nobody else uses it any more.
        caught(|| drop(unsafe { Box::from_raw(publisher) }));
    }
}

/// Writes as much of a text as fits, and a zero.
///
/// # Safety
/// At `to`, if it is not NULL, is room for `room` bytes.
unsafe fn tell(text: &str, to: *mut c_char, room: usize) {
    if to.is_null() || room == 0 {
        return;
    }
    let end = text.floor_char_boundary(room - 1);
    // SAFETY: no more than `room` bytes, the zero included; a text of ours does not overlap the caller's.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), end);
        to.add(end).write(0);
    }
}

// === What is said ===

/// Blocks came in, with their token ids.
///
/// # Safety
/// As the header says: what is not NULL is what it claims to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_publisher_stored_tokens(
    publisher: *const Handle,
    run: *const given::Run,
    token_ids: *const u32,
    token_count: usize,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise, for each of these.
        let (handle, run) = unsafe { (speaker(publisher)?, given::Run::read(run)?) };
        if run.blocks.len() * handle.block_size != token_count {
            return Err(Trouble::Count);
        }
        // SAFETY: the caller's promise.
        let tokens = unsafe { given::slice(token_ids, token_count) }?;
        say(handle, &run, Says::Tokens(tokens));
        Ok(())
    })
}

/// Blocks came in, with their tokens hashes.
///
/// # Safety
/// As the header says: what is not NULL is what it claims to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_publisher_stored_hashes(
    publisher: *const Handle,
    run: *const given::Run,
    tokens_hashes: *const u64,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise, for each of these.
        let (handle, run) = unsafe { (speaker(publisher)?, given::Run::read(run)?) };
        // SAFETY: the caller's promise; a `TokensHash` is a `u64` and nothing else.
        let hashes = unsafe { given::slice(tokens_hashes.cast(), run.blocks.len()) }?;
        say(handle, &run, Says::Hashes(hashes));
        Ok(())
    })
}

fn say(handle: &Handle, run: &given::Lent<'_>, content: Says<'_>) {
    if run.blocks.is_empty() {
        return;
    }
    let given::Lent { blocks, parent, lora, salt, tier } = *run;
    handle.publisher.stored(&Run { parent, blocks, content, lora, salt, tier });
}

/// One copy of each block went away.
///
/// # Safety
/// As the header says: what is not NULL is what it claims to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_publisher_removed(
    publisher: *const Handle,
    blocks: *const u64,
    block_count: usize,
    tier: i32,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise, for each of these.
        let (handle, blocks) = unsafe { (speaker(publisher)?, given::names(blocks, block_count)?) };
        let tier = given::tier(tier)?;
        if !blocks.is_empty() {
            handle.publisher.removed(blocks, tier);
        }
        Ok(())
    })
}

/// Everything went away.
///
/// # Safety
/// As the header says: what is not NULL is what it claims to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_publisher_cleared(publisher: *const Handle) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        unsafe { speaker(publisher) }?.publisher.cleared();
        Ok(())
    })
}

// === Questions ===

/// Where subscribers connect.
///
/// # Safety
/// As the header says: what is not NULL is what it claims to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_publisher_endpoint(publisher: *const Handle) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { handle(publisher) }.map_or(std::ptr::null(), |handle| CStr::as_ptr(&handle.endpoint))
}

/// Where replays are asked for.
///
/// # Safety
/// As the header says: what is not NULL is what it claims to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_publisher_replay_endpoint(publisher: *const Handle) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { handle(publisher) }.map_or(std::ptr::null(), |handle| CStr::as_ptr(&handle.replay))
}

/// Names this life.
///
/// # Safety
/// As the header says: what is not NULL is what it claims to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_publisher_epoch(publisher: *const Handle) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { handle(publisher) }.map_or(0, |handle| handle.publisher.epoch())
}

/// The name of a block whose hash is a string of bytes.
///
/// # Safety
/// As the header says: what is not NULL is what it claims to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn warmline_block_name(hash: *const u8, length: usize, name: *mut u64) -> c_int {
    answer(|| {
        if !(1..=32).contains(&length) {
            return Err(Trouble::Hash);
        }
        // SAFETY: the caller's promise.
        let hash = unsafe { given::slice(hash, length) }?;
        if name.is_null() || !name.is_aligned() {
            return Err(Trouble::Pointer);
        }
        // SAFETY: it is not NULL, it is aligned, and the rest is the caller's promise.
        unsafe { name.write(blocks::EngineHash::from_bytes(hash).0) };
        Ok(())
    })
}

//! What a disk holds after a cut of power: a model that is fed by the trace of `disk.c`.
//!
//! It is as unkind as POSIX allows: a folder has no name until the folder around it is synced; a name that was taken away or
//! given to another file comes back; of what was not synced any page may be there, in any order, or not; a sync that failed
//! loses what it was for, and the next one, which succeeds, does not bring it back. It is kinder in one thing, in which every
//! file system with a journal is: a file that was synced has the name it had then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const PAGE: u64 = 4096;

/// One thing that happened.
pub(crate) enum Event {
    Root(u64),
    New(u64),
    Write { file: u64, offset: u64, bytes: Vec<u8> },
    Resize { file: u64, length: u64 },
    Sync { file: u64, folder: u64, name: String },
    FailedSync(u64),
    Names { folder: u64, names: Vec<(u64, bool, String)> },
    Said(String),
}

/// A disk, and the kernel before it.
#[derive(Default)]
pub(crate) struct Disk {
    root: usize,
    /// Which file has a number now; numbers are used again.
    numbered: BTreeMap<u64, usize>,
    files: Vec<Node>,
}

#[derive(Default)]
struct Node {
    /// What the kernel shows.
    shown: Content,
    /// What is on the disk.
    kept: Content,
    /// Pages that the kernel knows it has to write.
    dirty: BTreeSet<u64>,
    names: Vec<(usize, bool, String)>,
}

#[derive(Clone, Default)]
struct Content {
    length: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

/// Reads a trace.
pub(crate) fn trace(path: &Path) -> Vec<Event> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut events = Vec::new();
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap());
    while !rest.is_empty() {
        let (file, offset, length) = (word(rest, 1), word(rest, 2), word(rest, 3) as usize);
        let body = &rest[32..32 + length];
        events.push(match rest[0] {
            b'R' => Event::Root(file),
            b'N' => Event::New(file),
            b'W' => Event::Write { file, offset, bytes: body.to_vec() },
            b'T' => Event::Resize { file, length: offset },
            b'S' => Event::Sync { file, folder: offset, name: String::from_utf8(body.to_vec()).unwrap() },
            b'F' => Event::FailedSync(file),
            b'D' => Event::Names { folder: file, names: names(body) },
            b'A' => Event::Said(String::from_utf8(body.to_vec()).unwrap()),
            other => panic!("a trace with the letter {other}"),
        });
        rest = &rest[32 + length..];
    }
    events
}

fn names(mut body: &[u8]) -> Vec<(u64, bool, String)> {
    let mut names = Vec::new();
    while !body.is_empty() {
        let number = u64::from_le_bytes(body[..8].try_into().unwrap());
        let end = 10 + usize::from(body[9]);
        names.push((number, body[8] == 1, String::from_utf8(body[10..end].to_vec()).unwrap()));
        body = &body[end..];
    }
    names
}

impl Disk {
    /// What happens to a running machine.
    pub(crate) fn happen(&mut self, event: &Event) {
        match event {
            // A second life on the same machine: the kernel has forgotten nothing.
            Event::Root(number) => self.root = self.node(*number),
            Event::New(number) => {
                self.files.push(Node::default());
                self.numbered.insert(*number, self.files.len() - 1);
            }
            Event::Write { file, offset, bytes } => {
                let node = self.node(*file);
                self.files[node].write(*offset, bytes);
            }
            Event::Resize { file, length } => {
                let node = self.node(*file);
                self.files[node].shown.resize(*length);
            }
            Event::Sync { file, folder, name } => {
                let (node, folder) = (self.node(*file), self.node(*folder));
                self.files[node].sync();
                let names = &mut self.files[folder].names;
                names.retain(|(other, _, taken)| *other != node && taken != name);
                names.push((node, false, name.clone()));
            }
            Event::FailedSync(file) => {
                let node = self.node(*file);
                self.files[node].dirty.clear();
            }
            Event::Names { folder, names } => {
                let names =
                    names.iter().map(|(number, is, name)| (self.node(*number), *is, name.clone())).collect();
                let node = self.node(*folder);
                self.files[node].names = names;
            }
            Event::Said(_) => {}
        }
    }

    /// Makes in `folder` what a cut of power leaves; `chance` says of each page that was not synced whether it is there.
    pub(crate) fn cut(&self, folder: &Path, chance: &mut dyn FnMut() -> bool) {
        self.make(self.root, folder, chance);
    }

    fn make(&self, node: usize, folder: &Path, chance: &mut dyn FnMut() -> bool) {
        std::fs::create_dir_all(folder).unwrap();
        for (node, is_folder, name) in &self.files[node].names {
            let path = folder.join(name);
            if *is_folder {
                self.make(*node, &path, chance);
            } else {
                self.files[*node].after_cut(chance).make(&path);
            }
        }
    }

    fn node(&mut self, number: u64) -> usize {
        *self.numbered.entry(number).or_insert_with(|| {
            self.files.push(Node::default());
            self.files.len() - 1
        })
    }
}

impl Node {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.shown.length = self.shown.length.max(end);
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE, at % PAGE);
            let part = (PAGE - within).min(end - at);
            let content = self.shown.pages.entry(page).or_insert_with(|| vec![0; PAGE as usize]);
            content[within as usize..(within + part) as usize]
                .copy_from_slice(&bytes[(at - offset) as usize..(at - offset + part) as usize]);
            self.dirty.insert(page);
            at += part;
        }
    }

    fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            self.kept.take(page, &self.shown);
        }
        self.kept.resize(self.shown.length);
    }

    fn after_cut(&self, chance: &mut dyn FnMut() -> bool) -> Content {
        let mut left = self.kept.clone();
        if chance() {
            left.resize(self.shown.length);
        }
        for page in &self.dirty {
            if chance() {
                left.take(*page, &self.shown);
                let end = ((page + 1) * PAGE).min(self.shown.length);
                left.length = left.length.max(end);
            }
        }
        left
    }
}

impl Content {
    fn take(&mut self, page: u64, from: &Self) {
        match from.pages.get(&page) {
            Some(content) => self.pages.insert(page, content.clone()),
            None => self.pages.remove(&page),
        };
    }

    fn resize(&mut self, length: u64) {
        self.length = length;
        self.pages.split_off(&length.div_ceil(PAGE));
        if !length.is_multiple_of(PAGE)
            && let Some(last) = self.pages.get_mut(&(length / PAGE))
        {
            last[(length % PAGE) as usize..].fill(0);
        }
    }

    fn make(&self, path: &Path) {
        File::create(path).unwrap().set_len(self.length).unwrap();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for (page, content) in &self.pages {
            let at = page * PAGE;
            if at < self.length {
                file.write_all_at(&content[..PAGE.min(self.length - at) as usize], at).unwrap();
            }
        }
    }
}

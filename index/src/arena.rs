//! Things by number, in small pages: growing copies nothing, and a page that empties is given back.

/// A number that an [`Arena`] gave out.
pub(crate) type Id = u32;

/// Items a page. Small, so that a worker with few blocks costs little.
const PAGE: usize = 16;

/// Items by number.
///
/// A number means its item until the item is taken; then it may come back for another one.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    pages: Vec<Option<Box<Page<T>>>>,
    /// Numbers to use again. Some may be stale, because their page went away or they were noted twice; they
    /// are looked at before use, and all are dropped with the last item.
    free: Vec<Id>,
    len: usize,
}

#[derive(Debug, Default)]
struct Page<T> {
    /// Which items are in use, a bit each.
    live: u16,
    items: [T; PAGE],
}

// === impl Arena ===

impl<T: Default> Arena<T> {
    pub(crate) fn insert(&mut self, item: T) -> Id {
        let id = self.vacant();
        let page = self.pages[id as usize / PAGE].get_or_insert_default();
        page.live |= bit(id);
        page.items[id as usize % PAGE] = item;
        self.len += 1;
        id
    }

    /// The item behind a number, if it is in use.
    #[inline]
    pub(crate) fn get(&self, id: Id) -> Option<&T> {
        let page = self.pages.get(id as usize / PAGE)?.as_deref()?;
        (page.live & bit(id) != 0).then(|| &page.items[id as usize % PAGE])
    }

    /// The same, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let page = self.pages.get_mut(id as usize / PAGE)?.as_deref_mut()?;
        (page.live & bit(id) != 0).then(|| &mut page.items[id as usize % PAGE])
    }

    /// Takes an item out; its number is free.
    pub(crate) fn take(&mut self, id: Id) -> Option<T> {
        let item = std::mem::take(self.get_mut(id)?);
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
            return Some(item);
        }
        let page = &mut self.pages[id as usize / PAGE];
        if let Some(in_use) = page.as_deref_mut() {
            in_use.live &= !bit(id);
            if in_use.live == 0 {
                *page = None;
            }
        }
        self.free.push(id);
        Some(item)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        let pages = self.pages.iter().enumerate();
        pages.filter_map(|(number, page)| Some((number, page.as_deref()?))).flat_map(|(number, page)| {
            let used = page.items.iter().enumerate().filter(|(at, _)| page.live & (1 << at) != 0);
            used.map(move |(at, item)| ((number * PAGE + at) as Id, item))
        })
    }

    /// Bytes on the heap, without what the items own.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.pages.iter().flatten().count() * size_of::<Page<T>>()
            + self.pages.capacity() * size_of::<Option<Box<Page<T>>>>()
            + self.free.capacity() * size_of::<Id>()
    }

    fn vacant(&mut self) -> Id {
        while let Some(id) = self.free.pop() {
            if self.get(id).is_none() {
                return id;
            }
        }
        let first = (self.pages.len() * PAGE) as Id;
        self.pages.push(None);
        self.free.extend((first + 1..first + PAGE as Id).rev());
        first
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), free: Vec::new(), len: 0 }
    }
}

fn bit(id: Id) -> u16 {
    1 << (id as usize % PAGE)
}

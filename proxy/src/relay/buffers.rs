//! The buffers of a worker's relays, lent while there are bytes to move.
//!
//! Invariant: what is lent beyond `RELAY_POOL_BYTES_MAX` is of the smallest size, and what is kept
//! for reuse never exceeds it: slow readers cannot turn bulk buffers into a worker's whole memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use countersign_config::limits;

/// How large a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// For a quiet connection.
    Small,
    /// One TLS record.
    Mid,
    /// For a bulk transfer.
    Large,
}

impl Size {
    /// The size for a half that moved `burst` bytes without a pause.
    pub fn after(burst: u64) -> Size {
        if burst < limits::RELAY_GROW_MID_BYTES {
            Size::Small
        } else if burst < limits::RELAY_GROW_LARGE_BYTES {
            Size::Mid
        } else {
            Size::Large
        }
    }

    fn bytes(self) -> usize {
        match self {
            Size::Small => limits::RELAY_BUF_SMALL_BYTES,
            Size::Mid => limits::RELAY_BUF_MID_BYTES,
            Size::Large => limits::RELAY_BUF_LARGE_BYTES,
        }
    }
}

/// One worker's buffers.
#[derive(Debug, Default)]
pub struct Buffers {
    kept: [RefCell<Vec<Box<[u8]>>>; 3],
    kept_bytes: Cell<usize>,
    lent_bytes: Cell<usize>,
}

impl Buffers {
    /// Lends a buffer of this size, or the smallest where much is lent already.
    pub fn lend(self: &Rc<Self>, size: Size) -> Lent {
        let crowded = self.lent_bytes.get() + size.bytes() > limits::RELAY_POOL_BYTES_MAX;
        let size = if crowded { Size::Small } else { size };
        let kept = self.shelf(size).borrow_mut().pop();
        if kept.is_some() {
            self.kept_bytes.set(self.kept_bytes.get().saturating_sub(size.bytes()));
        }
        let bytes = kept.unwrap_or_else(|| vec![0; size.bytes()].into_boxed_slice());
        self.lent_bytes.set(self.lent_bytes.get() + size.bytes());
        Lent { bytes, size, of: Rc::clone(self) }
    }

    /// Bytes lent now.
    pub fn lent_bytes(&self) -> usize {
        self.lent_bytes.get()
    }

    /// Bytes kept for reuse.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes.get()
    }

    fn shelf(&self, size: Size) -> &RefCell<Vec<Box<[u8]>>> {
        let [small, mid, large] = &self.kept;
        match size {
            Size::Small => small,
            Size::Mid => mid,
            Size::Large => large,
        }
    }
}

/// A lent buffer; dropping it returns it.
#[derive(Debug)]
pub struct Lent {
    bytes: Box<[u8]>,
    size: Size,
    of: Rc<Buffers>,
}

impl Lent {
    /// The size it was lent as.
    pub fn size(&self) -> Size {
        self.size
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// What a read has filled.
    pub fn filled(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let of = &self.of;
        of.lent_bytes.set(of.lent_bytes.get().saturating_sub(self.size.bytes()));
        let kept = of.kept_bytes.get() + self.size.bytes();
        if kept <= limits::RELAY_POOL_BYTES_MAX {
            of.kept_bytes.set(kept);
            of.shelf(self.size).borrow_mut().push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_lent_again() {
        let buffers = Rc::new(Buffers::default());
        let first = buffers.lend(Size::Mid);
        assert_eq!(buffers.lent_bytes(), limits::RELAY_BUF_MID_BYTES);
        drop(first);
        assert_eq!(buffers.lent_bytes(), 0);
        assert_eq!(buffers.kept_bytes(), limits::RELAY_BUF_MID_BYTES);
        let _again = buffers.lend(Size::Mid);
        assert_eq!(buffers.kept_bytes(), 0);
    }

    #[test]
    fn bulk_buffers_end_where_the_pool_does() {
        let buffers = Rc::new(Buffers::default());
        let lent: Vec<_> = (0..10_000).map(|_| buffers.lend(Size::Large)).collect();
        let large = lent.iter().filter(|lent| lent.size() == Size::Large).count();
        assert_eq!(large, limits::RELAY_POOL_BYTES_MAX / limits::RELAY_BUF_LARGE_BYTES);
        let rest = (lent.len() - large) * limits::RELAY_BUF_SMALL_BYTES;
        assert!(buffers.lent_bytes() <= limits::RELAY_POOL_BYTES_MAX + rest);
        drop(lent);
        assert_eq!(buffers.lent_bytes(), 0);
        assert!(buffers.kept_bytes() <= limits::RELAY_POOL_BYTES_MAX);
    }

    #[test]
    fn the_size_follows_the_burst() {
        assert_eq!(Size::after(0), Size::Small);
        assert_eq!(Size::after(limits::RELAY_GROW_MID_BYTES), Size::Mid);
        assert_eq!(Size::after(limits::RELAY_GROW_LARGE_BYTES), Size::Large);
    }
}

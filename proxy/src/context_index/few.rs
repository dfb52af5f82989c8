//! The requests of one name. Nearly always one, which then costs no allocation of its own: there
//! are as many of these as requests in grace.

/// At least one item, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Few<T> {
    /// The only one.
    One(T),
    /// Several, or what is left of several.
    Many(Vec<T>),
}

impl<T: Copy + PartialEq> Few<T> {
    pub(super) fn iter(&self) -> std::slice::Iter<'_, T> {
        match self {
            Few::One(only) => std::slice::from_ref(only).iter(),
            Few::Many(all) => all.iter(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.iter().len()
    }

    pub(super) fn push(&mut self, item: T) {
        match self {
            Few::One(first) => *self = Few::Many(vec![*first, item]),
            Few::Many(all) => all.push(item),
        }
    }

    /// Takes an item out; whether any is left.
    pub(super) fn remove(&mut self, item: &T) -> bool {
        match self {
            Few::One(only) => only != item,
            Few::Many(all) => {
                all.retain(|other| other != item);
                !all.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_and_go_in_order() {
        let mut few = Few::One(1);
        assert!(few.remove(&2), "another one is not the only one");
        few.push(2);
        few.push(3);
        assert_eq!((few.iter().copied().collect::<Vec<_>>(), few.len()), (vec![1, 2, 3], 3));
        assert!(few.remove(&1));
        assert!(few.remove(&3));
        assert_eq!(few.iter().copied().collect::<Vec<_>>(), [2]);
        assert!(!few.remove(&2));
        assert!(!Few::One(1).remove(&1));
    }
}

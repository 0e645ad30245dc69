//! The tree of prefixes: a number for each text that ends with a full block.
//!
//! Two full blocks have one [`PrefixId`] if and only if their salts and all tokens up to their ends
//! are equal. Nothing is hashed, so nobody can make a prefix that is taken for another one. A
//! prefix lives as long as it has a user: a cached block, a sequence, or a longer prefix.
//! Deliberately absent: which block holds what (`pool.rs`).

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use binfer_proto::Token;

use super::evicted::{EvictedPrefixes, Fingerprint};
use super::salt::Salt;

/// Prefixes on either side that are looked at to find the one that is most like another. More are
/// passed over only while many that wait are in no block yet.
const NEIGHBOURS_MAX: usize = 16;

/// The number of a prefix that has a user. Without users the number is used for another prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PrefixId(usize);

/// What comes before the last block of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// Nothing: the block is the first one of a text with this salt.
    Salt(Arc<Salt>),
    /// This prefix.
    Prefix(PrefixId),
}

/// Prefixes that are one block longer than their parent, by the tokens of that block.
type Children = BTreeMap<Arc<[Token]>, PrefixId>;

#[derive(Debug, Default)]
pub(super) struct PrefixTree {
    nodes: Vec<PrefixNode>,
    free: Vec<PrefixId>,
    /// Prefixes of one block, by salt.
    first: BTreeMap<Arc<Salt>, Children>,
    evicted: EvictedPrefixes,
}

#[derive(Debug)]
struct PrefixNode {
    parent: Parent,
    tokens: Arc<[Token]>,
    children: Children,
    fingerprint: Fingerprint,
    /// Number of cached blocks, block tables and children that use it; 0 if its number is free.
    users: usize,
}

impl PrefixTree {
    /// A tree that remembers so many evictions.
    pub(super) fn new(evicted_max: usize) -> Self {
        Self { evicted: EvictedPrefixes::new(evicted_max), ..Self::default() }
    }

    /// The prefix that ends with a block of `tokens` behind `parent`, with one more user.
    pub(super) fn intern(&mut self, parent: &Parent, tokens: &[Token]) -> PrefixId {
        if let Some(id) = self.siblings(parent).get(tokens).copied() {
            self.hold(id);
            return id;
        }
        let fingerprint = self.fingerprint(parent).then(tokens.iter().copied().map(u64::from));
        let tokens: Arc<[Token]> = tokens.into();
        let (children, key) = (Children::new(), Arc::clone(&tokens));
        let node = PrefixNode { parent: parent.clone(), tokens, children, fingerprint, users: 1 };
        let id = self.free.pop().unwrap_or(PrefixId(self.nodes.len()));
        if id.0 == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[id.0] = node;
        }
        self.siblings(parent).insert(key, id);
        if let Parent::Prefix(parent) = parent {
            self.hold(*parent);
        }
        id
    }

    /// Notes that a block with this prefix was evicted.
    pub(super) fn note_eviction(&mut self, id: PrefixId) {
        self.evicted.insert(self.nodes[id.0].fingerprint);
    }

    /// Whether a block with this prefix was evicted lately.
    pub(super) fn was_evicted(&self, id: PrefixId) -> bool {
        self.evicted.contains(self.nodes[id.0].fingerprint)
    }

    /// The last blocks of a prefix and of the next ones on either side, by the order of their
    /// tokens, that have the same parent and of which `is_cached` holds. One of these has the
    /// longest beginning in common.
    pub(super) fn nearest_siblings(
        &self,
        id: PrefixId,
        is_cached: impl Fn(PrefixId) -> bool,
    ) -> impl Iterator<Item = (&[Token], &[Token])> {
        let PrefixNode { parent, tokens, .. } = &self.nodes[id.0];
        let siblings = match parent {
            Parent::Salt(salt) => self.first.get(salt),
            Parent::Prefix(parent) => Some(&self.nodes[parent.0].children),
        };
        let sides = siblings.map(|siblings| {
            let before = siblings.range::<[Token], _>((Unbounded, Excluded(&**tokens)));
            let after = siblings.range::<[Token], _>((Excluded(&**tokens), Unbounded));
            let is_cached = |(_, id): &(&Arc<[Token]>, &PrefixId)| is_cached(**id);
            let before = before.rev().take(NEIGHBOURS_MAX).find(&is_cached);
            [before, after.take(NEIGHBOURS_MAX).find(&is_cached)]
        });
        let found = sides.into_iter().flatten().flatten();
        found.map(move |(other, _)| (&**tokens, &**other))
    }

    fn fingerprint(&self, parent: &Parent) -> Fingerprint {
        match parent {
            Parent::Prefix(parent) => self.nodes[parent.0].fingerprint,
            Parent::Salt(salt) => {
                let text = salt.text.iter().flat_map(|text| text.bytes()).map(u64::from);
                let narrow = [u64::from(salt.tenant.0), u64::from(salt.text.is_some())];
                Fingerprint::default().then([salt.weights]).then(narrow).then(text)
            }
        }
    }

    /// Adds a user to a prefix.
    pub(super) fn hold(&mut self, id: PrefixId) {
        self.nodes[id.0].users += 1;
    }

    /// Takes a user from a prefix. Without users it is removed, and so are its ancestors that have
    /// no other user.
    pub(super) fn release(&mut self, mut id: PrefixId) {
        loop {
            let node = &mut self.nodes[id.0];
            assert!(node.users > 0, "prefix {} is released but has no user", id.0);
            node.users -= 1;
            if node.users > 0 {
                return;
            }
            let (parent, tokens) = (node.parent.clone(), std::mem::take(&mut node.tokens));
            let siblings = self.siblings(&parent);
            siblings.remove(&tokens);
            let none_left = siblings.is_empty();
            self.free.push(id);
            match parent {
                Parent::Prefix(parent) => id = parent,
                Parent::Salt(salt) => {
                    if none_left {
                        self.first.remove(&salt);
                    }
                    return;
                }
            }
        }
    }

    /// Number of prefixes that have a user.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    fn siblings(&mut self, parent: &Parent) -> &mut Children {
        match parent {
            Parent::Salt(salt) => self.first.entry(Arc::clone(salt)).or_default(),
            Parent::Prefix(id) => &mut self.nodes[id.0].children,
        }
    }
}

#[cfg(test)]
impl PrefixTree {
    /// Checks that every prefix is found under its parent by its tokens, and that its users are the
    /// blocks and block tables in `named`, and its children.
    pub(super) fn check(&self, named: impl Iterator<Item = PrefixId>) -> Result<(), String> {
        let mut users = vec![0; self.nodes.len()];
        named.for_each(|id| users[id.0] += 1);
        let live = self.nodes.iter().enumerate().filter(|(_, node)| node.users > 0);
        for (index, node) in live.clone() {
            let siblings = match &node.parent {
                Parent::Salt(salt) => self.first.get(salt),
                Parent::Prefix(parent) => {
                    users[parent.0] += 1;
                    Some(&self.nodes[parent.0].children)
                }
            };
            if siblings.and_then(|siblings| siblings.get(&node.tokens)) != Some(&PrefixId(index)) {
                return Err(format!("prefix {index} is not where it belongs"));
            }
        }
        let wrong = self.nodes.iter().zip(&users).position(|(node, users)| node.users != *users);
        if let Some(index) = wrong {
            let counted = self.nodes[index].users;
            return Err(format!("prefix {index} counts {counted} users, has {}", users[index]));
        }
        let listed = self.first.values().chain(live.clone().map(|(_, node)| &node.children));
        if listed.map(Children::len).sum::<usize>() != live.count() {
            return Err("a prefix is listed that nobody uses".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn salt(weights: u64) -> Parent {
        Parent::Salt(Arc::new(Salt { weights, ..Salt::default() }))
    }

    #[test]
    fn a_prefix_is_its_salt_and_all_of_its_tokens() {
        let mut tree = PrefixTree::default();
        let one = tree.intern(&salt(1), &[1, 2]);
        assert_eq!(tree.intern(&salt(1), &[1, 2]), one);
        let longer = tree.intern(&Parent::Prefix(one), &[3, 4]);
        let others = [
            tree.intern(&salt(2), &[1, 2]),
            tree.intern(&salt(1), &[1, 3]),
            tree.intern(&salt(1), &[1]),
            tree.intern(&salt(1), &[3, 4]),
            tree.intern(&Parent::Prefix(one), &[3, 5]),
        ];
        for other in others {
            assert!(![one, longer].contains(&other), "{other:?}");
            let behind = tree.intern(&Parent::Prefix(other), &[3, 4]);
            assert_ne!(behind, longer);
            tree.release(behind);
        }
        let named = [one, one, longer].into_iter().chain(others);
        assert_eq!(tree.check(named), Ok(()));
    }

    #[test]
    fn a_prefix_goes_with_its_last_user_and_takes_its_ancestors_along() {
        let mut tree = PrefixTree::default();
        let mut parent = salt(0);
        let mut chain = Vec::new();
        for token in 0..50 {
            let id = tree.intern(&parent, &[token]);
            chain.push(id);
            parent = Parent::Prefix(id);
        }
        let last = chain.pop().unwrap();
        chain.iter().for_each(|id| tree.release(*id));
        assert_eq!((tree.len(), tree.check([last].into_iter())), (50, Ok(())));
        tree.release(last);
        assert_eq!((tree.len(), tree.check([].into_iter())), (0, Ok(())));
        assert!(tree.first.is_empty());
    }
}

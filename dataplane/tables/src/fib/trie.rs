//! A multi-bit trie of stride 8, leaf-pushed and path-compressed: a lookup reads one 4-byte slot per node, and there
//! are nodes only where routes part, so that a cluster's few ranges cost two or three steps in either family.

use super::{Bits, Code, FibError};

/// The slot holds the index of a node.
const NODE: u32 = 1 << 31;
/// The slot holds the index of a leaf: one prefix of more bits than the slot stands for.
const LEAF: u32 = 1 << 30;
const INDEX: u32 = LEAF - 1;

#[derive(Debug)]
pub(super) struct Trie<B> {
    root: u32,
    nodes: Vec<Node<B>>,
    leaves: Vec<Leaf<B>>,
}

/// Decides by the byte `depth`, if the bytes before it are those of `prefix`.
#[derive(Debug)]
struct Node<B> {
    prefix: B,
    mask: B,
    depth: u32,
    /// What holds if they are not.
    fallback: Code,
    slots: Box<[u32; 256]>,
}

#[derive(Debug)]
struct Leaf<B> {
    prefix: B,
    mask: B,
    code: Code,
    fallback: Code,
}

impl<B> Default for Trie<B> {
    fn default() -> Self {
        Trie { root: 0, nodes: Vec::new(), leaves: Vec::new() }
    }
}

impl<B: Bits> Trie<B> {
    /// Builds from (address, length, next hop).
    pub(super) fn build(mut routes: Vec<(B, u8, Code)>) -> Result<Self, FibError> {
        for (addr, len, _) in &mut routes {
            *addr = *addr & B::mask(u32::from(*len));
        }
        routes.sort_unstable_by_key(|&(addr, len, _)| (addr, len));
        for pair in routes.windows(2) {
            if pair[0].0 == pair[1].0
                && pair[0].1 == pair[1].1
                && let (Some(a), Some(b)) = (pair[0].2.hop(), pair[1].2.hop())
                && a != b
            {
                return Err(FibError::Twice(pair[0].0.ip(), pair[0].1, a, b));
            }
        }
        routes.dedup_by_key(|&mut (addr, len, _)| (addr, len));
        // The default route sorts first and is what everything else falls back to.
        let (fallback, rest) = match routes.split_first() {
            Some((&(_, 0, code), rest)) => (code, rest),
            _ => (Code::NONE, &routes[..]),
        };
        let mut trie = Trie::default();
        trie.root = trie.subtree(rest, fallback);
        Ok(trie)
    }

    /// The slot value for sorted routes that all lie below the slot; `fallback` holds where none of them does.
    fn subtree(&mut self, routes: &[(B, u8, Code)], fallback: Code) -> u32 {
        let (Some(&first), Some(&last)) = (routes.first(), routes.last()) else { return fallback.0 };
        if routes.len() == 1 {
            self.leaves.push(Leaf { prefix: first.0, mask: B::mask(u32::from(first.1)), code: first.2, fallback });
            return LEAF | (self.leaves.len() - 1) as u32;
        }
        // Sorted, so what first and last have in common all have; and no route may end before the node's byte.
        let shortest = routes.iter().map(|r| u32::from(r.1)).min().unwrap_or(B::WIDTH);
        let depth = ((first.0 ^ last.0).leading_zeros().min(B::WIDTH - 1) / 8).min((shortest - 1) / 8);
        let bits = 8 * depth;
        let mut slots = Box::new([fallback.0; 256]);
        self.fill(routes, depth, &mut slots);
        let mask = B::mask(bits);
        self.nodes.push(Node { prefix: first.0 & mask, mask, depth, fallback, slots });
        NODE | (self.nodes.len() - 1) as u32
    }

    fn fill(&mut self, routes: &[(B, u8, Code)], depth: u32, slots: &mut [u32; 256]) {
        let end = 8 * (depth + 1);
        // Shorter routes first, so that longer ones overwrite them.
        let mut ending: Vec<_> = routes.iter().filter(|r| u32::from(r.1) <= end).collect();
        ending.sort_by_key(|r| r.1);
        for &&(addr, len, code) in &ending {
            let from = addr.byte(depth);
            slots[from..from + (1 << (end - u32::from(len)))].fill(code.0);
        }
        for group in routes.chunk_by(|a, b| a.0.byte(depth) == b.0.byte(depth)) {
            let at = group[0].0.byte(depth);
            // Those that end here have this byte and a smaller length than the deeper ones of the same address, but
            // may stand between deeper ones only if their address is equal: filtering keeps the order.
            let deeper: Vec<_> = group.iter().filter(|r| u32::from(r.1) > end).copied().collect();
            if !deeper.is_empty() {
                slots[at] = self.subtree(&deeper, Code(slots[at]));
            }
        }
    }

    /// The longest match.
    #[inline(always)]
    pub(super) fn get(&self, addr: B) -> Code {
        let mut slot = self.root;
        // Each step goes at least one byte deeper.
        while slot & NODE != 0 {
            let node = &self.nodes[(slot & INDEX) as usize];
            if addr & node.mask != node.prefix {
                return node.fallback;
            }
            slot = node.slots[addr.byte(node.depth)];
        }
        if slot & LEAF != 0 {
            let leaf = &self.leaves[(slot & INDEX) as usize];
            return if addr & leaf.mask == leaf.prefix { leaf.code } else { leaf.fallback };
        }
        Code(slot)
    }

    pub(super) fn memory(&self) -> usize {
        self.nodes.len() * (size_of::<Node<B>>() + 1024) + self.leaves.len() * size_of::<Leaf<B>>()
    }
}

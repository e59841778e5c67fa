//! Arguments gathered for one command.

/// Arguments, end to end, until there are enough for a command.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    pub(super) fn push(&mut self, arg: &[u8]) {
        self.bytes.extend_from_slice(arg);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of arguments.
    pub(super) fn args(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all arguments.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        // One giant element must not cost its room for ever.
        self.bytes.shrink_to(1 << 20);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let arg = &self.bytes[start..end];
            start = end;
            arg
        })
    }
}

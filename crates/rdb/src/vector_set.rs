//! Vector sets, values of a module that Redis 8 has built in.

use crate::event::RawValue;
use crate::types::ModuleId;
use crate::wire;

/// Opcodes of module data.
mod opcode {
    pub(super) const INTEGERS: [u64; 2] = [1, 2];
    pub(super) const FLOAT: u64 = 3;
    pub(super) const DOUBLE: u64 = 4;
    pub(super) const STRING: u64 = 5;
}

impl ModuleId {
    /// Whether this is the module of vector sets.
    pub fn is_vector_set(self) -> bool {
        self.name() == *b"vectorset"
    }
}

impl RawValue<'_> {
    /// The layout of a vector set's nodes: 0 of Redis 8.0.0 to 8.0.2, 1 of later releases, which earlier ones refuse together
    /// with the whole file. `None` for other values, and when the bytes, of which the first part is enough as a rule,
    /// end before that can be told.
    pub fn vector_set_layout(self) -> Option<u8> {
        self.module().filter(|module| module.is_vector_set())?;
        let mut bytes = self.bytes();
        let number = |bytes: &mut &[u8]| {
            let (number, size) = wire::len(bytes).ok()?;
            *bytes = bytes.get(size..)?;
            Some(number)
        };
        number(&mut bytes)?;
        // A head of numbers, then strings: the first element and its vector, before them perhaps a matrix. The numbers that
        // follow are how many describe its node, its id, and its level, which has the layout in its upper byte.
        let (mut strings, mut numbers) = (false, 0);
        loop {
            match number(&mut bytes)? {
                op if opcode::INTEGERS.contains(&op) => {
                    let value = number(&mut bytes)?;
                    numbers += u32::from(strings);
                    if numbers == 3 {
                        return Some((value >> 24) as u8);
                    }
                }
                opcode::FLOAT => bytes = bytes.get(4..)?,
                opcode::DOUBLE => bytes = bytes.get(8..)?,
                opcode::STRING => {
                    let head = wire::str_head(bytes).ok()?;
                    let end = head.head.checked_add(usize::try_from(head.payload).ok()?)?;
                    bytes = bytes.get(end..)?;
                    strings = true;
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ValueType;

    /// `VADD v VALUES 3 0.1 0.5 1 el0`, and `el1` with 0.2.
    #[test]
    fn layouts_are_told() {
        let head = b"\x81\xbd\xe7\x2d\xa2\xbb\x1e\xb4\0\x02\x03\x02\x02\x02\x50\x01\x02\0\x05\x03el1\x05\x03\x19\x40\x7f";
        let old = b"\x02\x06\x02\x02\x02\0\x02\x01\x02\x20\x02\x01";
        let new = b"\x02\x07\x02\x02\x02\x80\x01\0\0\0\x02\x01\x02\x20";
        let layout = |bytes: &[u8]| RawValue::new(ValueType::Module, bytes).vector_set_layout();
        assert_eq!(layout(&[&head[..], old].concat()), Some(0));
        let whole = [&head[..], new].concat();
        assert_eq!(layout(&whole), Some(1));
        for cut in 0..head.len() + 8 {
            assert_eq!(layout(&whole[..cut]), None);
        }
        assert_eq!(RawValue::new(ValueType::String, &whole).vector_set_layout(), None);
    }
}
